"""What `resnetrt search --json` prints, as types."""

from typing import TypedDict

from resnetrt.benchmarks.search.confirm import ClaimRow
from resnetrt.benchmarks.search.front import FrontRow, PointAccuracy
from resnetrt.benchmarks.search.race import RacerRow
from resnetrt.fields import JsonObject


class FactsRow(PointAccuracy):
    """The gate's numbers on one half of the images, with the reference's."""

    fp32_top1: float


class ConfirmationRow(FactsRow, ClaimRow):
    """An attempt on held-out images, and the blocks that it keeps."""

    kept: list[str]


class BlockRow(TypedDict):
    """The fields of a `strategy.Sensitivity`."""

    block: str
    noise: float
    cost_ms: float


class StoredVariant(TypedDict):
    """The names of what a search stored."""

    variant: str
    engine: str


class SearchRecord(TypedDict):
    """The whole object; `search` and `held_out` are rows of the gate (`GateRow.to_json`)."""

    bundle: str
    data: str
    backend: str
    budget: JsonObject
    verdict: str | None
    stopped: str | None
    left_out: list[str]
    evaluations: int
    blocks: list[BlockRow]
    islands: list[RacerRow]
    kept: list[str] | None
    kept_precision: str | None
    search: JsonObject | None
    held_out: JsonObject | None
    confirmations: list[ConfirmationRow]
    front: list[FrontRow]
    stored: StoredVariant | None
