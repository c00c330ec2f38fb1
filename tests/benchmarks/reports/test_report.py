"""The final table and its files: joined by engine, honest about what was not measured."""

import json

import pytest
from planted_rows import gate_row

from resnetrt.benchmarks.reports.cells import format_ms
from resnetrt.benchmarks.reports.report import HEADER, Report, table_cells, write_report
from resnetrt.errors import BackendMissing, UsageError


def accuracy(engine, **changes):
    return gate_row(engine, **changes)


def latency(engine, median_ms, times_faster, batch=1):
    backend, precision = engine.split("-")[:2]
    row = {"network": "net", "depth": 20, "engine": engine, "backend": backend, "precision": precision, "batch": batch}
    row |= {"threads": 2, "n": 300, "median_ms": median_ms, "p90_ms": median_ms * 1.1, "p99_ms": median_ms * 1.5}
    row |= {"ci_ms": [median_ms * 0.98, median_ms * 1.02], "ci_confidence": 0.97, "disturbed": False}
    row |= {"round_medians_ms": [median_ms] * 6, "times_faster": times_faster}
    return row | {"times_faster_ci": times_faster and [times_faster * 0.9, times_faster * 1.1]}


@pytest.fixture
def report():
    return Report(
        "net: accuracy and latency",
        engines=[accuracy("onnxruntime-fp32-cpu", top1=92.9, drop_pp=0.0), accuracy("openvino-int8-cpu")],
        results=[
            latency("openvino-int8-cpu", 0.5, 4.4),
            latency("eager-fp32", 2.2, 1.0),
            latency("onnxruntime-fp32-cpu", 0.9, 2.444),
            latency("eager-fp32", 16.0, 1.0, batch=8),
        ],
        sizes={"openvino-int8-cpu": 351_000, "eager-fp32": 1_106_984},
        conditions={"cpu": "A|B", "cores": 2, "versions": {"numpy": "2", "torch": "3"}},
        notes=["trained in a minute"],
        shares={"openvino-int8-cpu": 0.97512, "onnxruntime-fp32-cpu": None},
        refused=["engine onnxruntime-int8-cpu: expected more"],
    )


def test_cells_engine_by_engine_with_eager_first(report):
    assert table_cells(report.summary()) == [
        [
            "eager-fp32",
            "-",
            "92.90",
            "-",
            "-",
            "-",
            "300",
            "2.20 [2.16, 2.24]",
            "2.42",
            "3.30",
            "1.00 [0.90, 1.10]",
            "1.1 MB",
        ],
        [
            "openvino-int8-cpu",
            "97.5",
            "92.70",
            "0.20 [-0.10, 0.55]",
            "0.85",
            "30.1",
            "300",
            "0.500 [0.490, 0.510]",
            "0.550",
            "0.750",
            "4.40 [3.96, 4.84]",
            "351 kB",
        ],
        [
            "onnxruntime-fp32-cpu",
            "-",
            "92.90",
            "0.00 [-0.10, 0.55]",
            "0.85",
            "30.1",
            "300",
            "0.900 [0.882, 0.918]",
            "0.990",
            "1.35",
            "2.44 [2.20, 2.69]",
            "-",
        ],
    ]


def test_an_engine_without_latency_or_accuracy_keeps_its_row(report):
    partial = Report("t", [accuracy("a-int8")], [latency("b-fp32", 1.0, None)], {}, {})
    assert table_cells(partial.summary()) == [
        ["b-fp32", "-", "-", "-", "-", "-", "300", "1.00 [0.980, 1.02]", "1.10", "1.50", "-", "-"],
        ["a-int8", "-", "92.70", "0.20 [-0.10, 0.55]", "0.85", "30.1", "-", "-", "-", "-", "-", "-"],
    ]


def test_few_rounds_and_a_disturbed_machine_are_said_in_the_table():
    row = latency("b-fp32", 1.0, None) | {"round_medians_ms": [1.0], "ci_confidence": 0.0, "disturbed": True}
    made = Report("t", [], [row], {}, {})
    assert table_cells(made.summary())[0][::7] == ["b-fp32 *", "1.00 [0.980, 1.02] (0 %)"]
    assert made.summary()[0]["rounds"] == 1
    assert "- times faster: n = 1: no ratio from fewer than six rounds; time the engines" in made.to_markdown()


def test_another_batch_size_shows_its_own_latencies(report):
    eight = Report("t", report.engines, report.results, {}, {}, batch=8).summary()
    assert [row["median_ms"] for row in eight] == [16.0, None, None]


def test_nothing_measured_is_refused():
    with pytest.raises(UsageError, match="expected results of at least one engine, found none"):
        Report("t", [], [], {}, {}).summary()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.01234, "0.0123"),
        (0.6, "0.600"),
        (9.999, "10.0"),
        (99.96, "100"),
        (145.2, "145"),
        (1234.5, "1234"),
    ],
)
def test_milliseconds_have_three_significant_digits(value, text):
    assert format_ms(value) == text


def test_a_tiny_negative_drop_is_not_minus_zero(report):
    row = report.summary()[1] | {"drop_pp": -0.001, "drop_ci_pp": [-0.4, 0.4]}
    assert table_cells([row])[0][3] == "0.00 [-0.40, 0.40]"


def test_files_say_the_same(report, tmp_path):
    paths = write_report(report, tmp_path / "new" / "out")
    assert [path.name for path in paths] == ["report.json", "report.md", "report.svg", "report.png"]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(path.name for path in paths)
    record = json.loads(paths[0].read_bytes())
    assert record["schema_version"] == 1
    assert record["conditions"]["cores"] == 2
    assert record["engines"] == [row.to_json() for row in report.engines]
    assert record["results"] == list(report.results)
    assert record["summary"] == report.summary()
    markdown = paths[1].read_text()
    table = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    assert table == [list(HEADER), *table_cells(report.summary())]
    assert "](report.svg)" in markdown
    assert "- processor: A|B; 2 cores for this process" in markdown
    assert "- versions: numpy 2, torch 3" in markdown
    assert "- trained in a minute" in markdown
    assert "## Refused\n\n- engine onnxruntime-int8-cpu: expected more\n" in markdown
    assert "- images evaluated: 2000" in markdown


def test_a_name_with_a_bar_does_not_break_the_table():
    markdown = Report("t", [], [latency("a|b-fp32-x", 1.0, None)], {}, {}).to_markdown()
    assert "| a\\|b-fp32-x |" in markdown


def test_without_a_picture_none_is_linked(report, tmp_path):
    paths = write_report(report, tmp_path, picture=False)
    assert [path.name for path in paths] == ["report.json", "report.md"]
    assert "![" not in paths[1].read_text()


def test_without_matplotlib_the_extra_is_named_and_nothing_written(report, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(BackendMissing, match=r"not installed; run: pip install 'resnetrt\[report\]'"):
        write_report(report, tmp_path)
    assert list(tmp_path.iterdir()) == []
