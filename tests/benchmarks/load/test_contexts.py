"""Throughput with several contexts: of a real engine on the CPU, and of TensorRT's double, which they share."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import double_machine
import numpy as np
import pytest
import tiny_bundle
from host_cuda import HostCuda

from resnetrt.benchmarks.depth.lab import run_lab
from resnetrt.benchmarks.depth.plan import LabOptions, bundle_subject, request_of
from resnetrt.benchmarks.load import contexts
from resnetrt.benchmarks.load.contexts import ContextsRow, measure_contexts
from resnetrt.benchmarks.measure.timing import Schedule
from resnetrt.benchmarks.reports.cells import CONTEXTS_HEADER, contexts_cells
from resnetrt.benchmarks.reports.html_report import html_report
from resnetrt.bundle import Bundle
from resnetrt.errors import UsageError
from resnetrt.export.engines.compile import compile_variant
from resnetrt.runtime.session import Array, Outputs, Session

QUICK = Schedule(rounds=7, block_calls=1, settle_s=0, warm_up_s=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With an engine in ONNX Runtime, and one for TensorRT's double."""
    bundle = tiny_bundle.make_bundle(tmp_path_factory.mktemp("contexts") / "tiny.bundle")
    compile_variant(bundle, "fp32", "onnxruntime")
    double_machine.add_engine(bundle)
    return bundle


@pytest.fixture
def gpu(made: Bundle, monkeypatch: pytest.MonkeyPatch) -> HostCuda:
    cuda = HostCuda()
    double_machine.install(made.variant_file("fp32"), cuda, monkeypatch.setattr, monkeypatch.setitem)
    monkeypatch.setattr(contexts, "_CALL_S", 0.01)
    return cuda


@pytest.fixture
def batches_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[int, int]]:
    """How many batches each session ran, by its `id`."""
    real, counts = Session.infer_batches, dict[int, int]()

    def count(session: Session, batches: Iterator[Array]) -> Iterator[Outputs]:
        for outputs in real(session, batches):
            counts[id(session)] = counts.get(id(session), 0) + 1
            yield outputs

    monkeypatch.setattr(Session, "infer_batches", count)
    return lambda: counts


def images(count: int) -> np.ndarray:
    return tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(count))


def require_sound(row: ContextsRow) -> None:
    low, high = row["images_per_s_ci"]
    assert 0 < low <= row["images_per_s"] <= high
    assert (row["times_one"] is None) == (row["contexts"] == 1)


def test_each_context_on_a_cpu_has_its_part_of_the_threads(
    made: Bundle, batches_of: Callable[[], dict[int, int]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(contexts, "_CALL_S", 0.002)
    rows = measure_contexts(made, "onnxruntime-fp32-cpu", "cpu", images(4), (2,), 2, QUICK)
    assert [(row["contexts"], row["threads"], row["batch"], row["n"]) for row in rows] == [(1, 2, 4, 7), (2, 1, 4, 7)]
    for row in rows:
        require_sound(row)
    one, *pair = batches_of().values()
    tried = 2 + 2 + 4  # before, to see how long a batch takes
    assert pair == [one - tried] * 2
    assert (one - tried) % rows[0]["batches"] == 0
    assert rows[0]["batches"] == rows[1]["batches"] >= 4


def test_contexts_on_a_gpu_share_the_engine(made: Bundle, gpu: HostCuda):
    rows = measure_contexts(made, double_machine.ENGINE, "gpu", images(4), (2, 3), 1, QUICK)
    assert [(row["contexts"], row["device"], row["backend"]) for row in rows] == [
        (n, "gpu", "tensorrt") for n in (1, 2, 3)
    ]
    for row in rows:
        require_sound(row)
    assert sys.modules["tensorrt"].Runtime.loads == 1
    assert gpu.counts["finish"] > 0, "copies overlap"
    assert gpu.held == 0


def test_a_rate_counts_all_images_of_all_contexts(made: Bundle, monkeypatch: pytest.MonkeyPatch):
    """By a clock that a call of n contexts moves on by one second for each batch of one of them: no overlap at all."""
    rows = []
    for slower in (1, 2):

        def measure_by_hand(crews, schedule, slower=slower):
            from resnetrt.benchmarks.measure.timing import Timing

            def timing(crew):
                seconds = crew._batches * (1 if len(crew.sessions) == 1 else slower)
                return Timing(7, seconds * 1e3, 0, 0, 0, (seconds * 1e3,) * 2, 0.95, (seconds * 1e3,) * 7, 1)

            return {name: timing(crew) for name, crew in crews.items()}

        monkeypatch.setattr(contexts, "measure", measure_by_hand)
        rows.append(measure_contexts(made, "onnxruntime-fp32-cpu", "cpu", images(4), (2,), 2, QUICK))
    assert [[row["images_per_s"] for row in pair] for pair in rows] == [[4, 8], [4, 4]]
    assert [pair[1]["times_one"] for pair in rows] == [2, 1]


def test_the_lab_keeps_them_apart_from_the_latencies(made: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    peaks = {"best": {"fp32": 100.0}, "copy_gb_s": 20.0, "matmul": []}
    monkeypatch.setattr("resnetrt.benchmarks.depth.lab.measure_peaks", lambda *_: peaks)
    monkeypatch.setattr("resnetrt.benchmarks.depth.lab.measure_overhead", lambda *_: [])
    monkeypatch.setattr(contexts, "_CALL_S", 0.002)
    subject = bundle_subject(made, (), ("onnxruntime",))
    options = LabOptions((1, 2), 2, rounds=2, budget_s=60.0, end_to_end=False, memory=False, contexts=(2,))
    kept: list[int] = []
    lines: list[str] = []
    record = run_lab([subject], options, lines.append, lambda item: kept.append(len(item["contexts"])))
    assert [(row["batch"], row["contexts"]) for row in record["contexts"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert {row["engine"] for row in record["results"]} == {"onnx-fp32", "onnxruntime-fp32-cpu"}
    assert kept == [0, 0, 2, 4]
    assert any(line.startswith("tiny onnxruntime-fp32-cpu batch 2, images a second by contexts: 1: ") for line in lines)
    assert record["request"]["contexts"] == [2]
    again = run_lab([subject], options, lines.append, None, record | {"contexts": record["contexts"][:2]})
    assert again["contexts"][:2] == record["contexts"][:2], "not measured again"
    assert len(again["contexts"]) == 4
    plain = replace(options, contexts=())
    assert "contexts" not in request_of([subject], plain)
    page = html_report(record)
    assert "Throughput by contexts" in page
    cells = contexts_cells(record["contexts"][1])
    assert len(cells) == len(CONTEXTS_HEADER)
    assert f"<td>{cells[4]}</td>" in page or f">{cells[4]}<" in page


def test_a_record_of_an_earlier_version_has_none():
    assert "Throughput by contexts" not in html_report(
        {"results": [], "conditions": {}, "noise": [], "loadgen": [], "left_out": [], "peaks": {"best": {}}}
    )


def test_a_number_below_one_is_refused():
    with pytest.raises(UsageError, match="--contexts: expected positive numbers, found 0"):
        LabOptions(contexts=(2, 0))
