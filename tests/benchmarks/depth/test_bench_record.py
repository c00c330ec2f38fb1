"""The types of `bench.json` name the fields that its JSON schema promises to users."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from json_schemas import SCHEMAS

from resnetrt.benchmarks.depth import baselines, bench_record, fit
from resnetrt.benchmarks.load import contexts
from resnetrt.benchmarks.measure import end_to_end, latency, memory, noise, overhead, roofline
from resnetrt.benchmarks.reports.accuracy import SummaryRow
from resnetrt.benchmarks.search import front, race, search_record

ROWS = {
    "bench.json": bench_record.BenchRecord,
    "bench.json#noise": noise.NoiseRow,
    "bench.json#timing": end_to_end.PathRow,
    "bench.json#network": bench_record.NetworkRow,
    "bench.json#contexts": contexts.WatchedContextsRow,
    "bench.json#memory": memory.MemoryRow,
    "bench.json#overhead": overhead.OverheadRow,
    "bench.json#profile": bench_record.ProfileRow,
    "bench.json#profiled": bench_record.LayerTimeRow,
    "bench.json#fit": fit.FitRow,
    "bench.json#crossing": fit.CrossingRow,
    "bench.json#ratio": fit.RatioRow,
    "bench.json#rival": baselines.RivalRow,
    "bench.json#run": bench_record.StoredRun,
    "bench.json#regression": bench_record.RegressionRecord,
    "bench.json#cell": bench_record.CellRow,
    "common.json#summary": SummaryRow,
    "search.json#point": front.FrontRow,
    "search.json#racer": race.RacerRow,
    "search.json#block": search_record.BlockRow,
    "search.json#confirmation": search_record.ConfirmationRow,
    "search.json#stored": search_record.StoredVariant,
    "common.json#latency_row": roofline.ResultRow,
}
NOT_STORED = {"engines"}  # `report` puts them beside a run that it read


def fields_of(place: str) -> Mapping[str, bool]:
    """Whether each field must be there, by name, with the fields of the row that this one builds on."""
    name, _, definition = place.partition("#")
    schema: dict[str, Any] = json.loads((SCHEMAS / (name or "bench.json")).read_text())
    row = schema["$defs"][definition] if definition else schema
    fields = {field: field in row.get("required", ()) for field in row["properties"]}
    for base in row.get("allOf", ()):
        file, _, inner = base["$ref"].partition("#/$defs/")
        fields |= fields_of(f"{file or name}#{inner}")
    return fields


@pytest.mark.parametrize("place", ROWS)
def test_a_row_has_the_fields_of_its_schema(place: str):
    row, fields = ROWS[place], fields_of(place)
    assert set(row.__annotations__) - NOT_STORED == set(fields)
    assert {name for name, needed in fields.items() if needed} <= row.__required_keys__


def test_rows_of_deploy_have_all_that_the_schema_demands():
    needed = {name for name, always in fields_of("common.json#latency_row").items() if always}
    assert latency.WatchedRow.__required_keys__ == needed
