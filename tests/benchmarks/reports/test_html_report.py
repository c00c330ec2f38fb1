"""The report of a bench run: complete, self-contained, readable in light and dark, and honest about noise."""

import json
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnetrt.benchmarks.depth.fit import break_even, fit_all
from resnetrt.benchmarks.reports.cells import condition_lines
from resnetrt.benchmarks.reports.charts import draw_all, spread, write_charts
from resnetrt.benchmarks.reports.conclusions import conclusions
from resnetrt.benchmarks.reports.html_report import html_report
from resnetrt.benchmarks.reports.results_page import results_page
from resnetrt.benchmarks.reports.theme import VARIABLES, themed_svg
from resnetrt.cli import run

GMACS = {18: 1.81, 34: 3.66, 50: 4.09, 101: 7.80, 152: 11.51}
ENGINES = {
    "eager-fp32": ("eager", "fp32", 8.0),
    "openvino-fp32-cpu": ("openvino", "fp32", 4.3),
    "openvino-int8-cpu": ("openvino", "int8", 1.2),
    "onnxruntime-int8-cpu": ("onnxruntime", "int8", 1.3),
}


def result(depth, engine, batch):
    backend, precision, per_gmac = ENGINES[engine]
    ms = per_gmac * GMACS[depth] * batch
    made = {"network": f"resnet{depth}", "depth": depth, "engine": engine, "backend": backend, "precision": precision}
    made |= {"batch": batch, "threads": 2, "n": 99, "median_ms": ms, "p90_ms": ms * 1.1, "p99_ms": ms * 1.3}
    made |= {"ci_ms": [ms * 0.98, ms * 1.03], "round_medians_ms": [ms * f for f in (0.99, 1, 1, 1, 1.01, 1)]}
    made |= {
        "times_faster": 8.0 / per_gmac,
        "gmacs": GMACS[depth],
        "gops": 2e3 / per_gmac,
        "ops_per_byte": 60.0 * batch,
    }
    return made | {
        "percent_of_peak": 70.0,
        "percent_of_floor": 80.0,
        "memory_percent": 25.0,
        "limit": "arithmetic",
        "disturbed": False,
    }


def record(**more):
    rows = [result(depth, engine, batch) for depth in GMACS for batch in (1, 8) for engine in ENGINES]
    made = {"results": rows, "fits": fit_all(rows), "break_even": break_even(rows), "seconds": 300.0}
    made |= {"conditions": {"cpu": "Some <CPU>", "threads": 2, "cores": 2, "versions": {"openvino": "1.0"}}}
    made |= {"peaks": {"best": {"fp32": 320.0, "int8": 2400.0}, "copy_gb_s": 27.0}, "left_out": ["resnet18 x: y"]}
    layers = [{"name": f"conv{i}", "op": "Convolution", "ms": 1.0 / (i + 1), "precision": "int8"} for i in range(40)]
    made |= {"layers": [{"network": "resnet18", "engine": "openvino-int8-cpu", "batch": 1, "layers": layers}]}
    timing = {"network": "resnet18", "engine": "openvino-int8-cpu", "median_ms": 2.0}
    made |= {"end_to_end": [timing | {"source": source} for source in ("jpeg", "frame")]}
    memory = {"size_bytes": 12e6, "peak_rss_bytes": 150e6, "load_and_selftest_ms": 300.0, "start_to_first_ms": 461.0}
    made |= {"memory": [{"network": "resnet18", "engine": "openvino-int8-cpu"} | memory]}
    return made | {"noise": [{"network": "resnet18", "batch": 1, "disturbed": False, "reasons": []}]} | more


@pytest.fixture(scope="module")
def page():
    return html_report(record())


def test_the_page_needs_no_network_and_no_script(page):
    shown = re.sub(r"<metadata>.*?</metadata>", "", page, flags=re.DOTALL)  # matplotlib's, never fetched
    assert all(target.startswith("#") for target in re.findall(r'(?:src|href)="([^"]*)"', shown))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", shown))
    assert not re.search("<script|<link|@import", shown)


def test_every_picture_and_table_is_there_and_text_is_escaped(page):
    for width in ("wide", "narrow"):
        assert page.count(f'<svg class="{width}"') == 5  # two batches, INT8, roofline, layers
    for heading in ("What it says", "Every cell", "What depth costs", "End to end", "Memory and start", "Left out"):
        assert f"<h2>{heading}" in page
    assert page.count("<td>resnet152</td>") == 8
    assert "Some &lt;CPU&gt;" in page


def test_colours_follow_the_readers_light_or_dark(page):
    assert "prefers-color-scheme: dark" in page
    pictures = "".join(re.findall(r"<svg .*?</svg>", page, re.DOTALL))
    fixed = set(re.findall(r"#[0-9a-f]{6}\b", pictures, re.IGNORECASE))
    assert fixed == set()
    used = set(re.findall(r"var\(--(\w+)\)", pictures))
    assert used <= {name for name, *_ in VARIABLES.values()}


def test_a_narrow_screen_shows_the_pictures_made_for_it(page):
    assert "figure svg.narrow{display:none}" in page
    assert "@media (max-width:40rem){body{padding:1rem}figure svg.wide{display:none}" in page
    widths = re.findall(r'<svg class="(\w+)"[^>]*viewBox="0 0 ([\d.]+) ', page)
    assert {width: max(float(w) for name, w in widths if name == width) for width, _ in widths} == {
        "wide": 9.0 * 72,
        "narrow": pytest.approx(4.4 * 72),
    }


def test_every_link_leads_to_a_section_and_details_are_folded(page):
    (nav,) = re.findall("<nav>.*?</nav>", page)
    targets = re.findall('href="#([^"]+)"', nav)
    assert targets == ["says", "pictures", "cells", "layers", "fits", "end-to-end", "memory", "left-out", "conditions"]
    sections = re.findall('<(?:section|div) id="([^"]+)"', page)
    assert sections == targets
    assert re.findall(r"<details><summary><h2>(\w+)", page) == ["Time", "What", "End", "Memory"]


def test_three_findings_are_shown_and_the_machines_state_the_others_are_folded(page):
    said = conclusions(record())
    first, more = re.findall("<ul>.*?</ul>", page)[:2]
    assert re.findall("<li>(.*?)</li>", first) == [*said[:3], said[-1]]
    assert re.findall("<li>(.*?)</li>", more) == said[3:-1]
    assert f"<details><summary>{len(said) - 4} more</summary><ul>" in page


def test_a_bundle_has_one_depth_and_no_axis_of_depths():
    rows = [row for row in record()["results"] if row["depth"] == 50]
    one = html_report(record(results=rows, fits=[], break_even=break_even(rows)))
    assert "<h1>Latency of engines</h1>" in one
    assert "against depth" not in one
    assert "INT8 pays, 3.6 times as fast as FP32." in one


def test_conditions_are_words_and_one_thread_is_one():
    conditions = {"cpu": "X", "cores": 1, "cpus": [3], "threads": 1, "versions": {"torch": "2"}, "later_fact": 7}
    conditions |= {"schedule": {"rounds": 11, "max_rounds": 15, "min_block_s": 0.1, "budget_s": 90.0}, "board": None}
    gpu = {"name": "NVIDIA L4", "memory_bytes": 24e9, "compute_capability": "8.9"}
    conditions |= {"gpu": {"driver": "570", "cuda": "12.8", "devices": [gpu], "limits": [{"power_limit_w": 72.0}]}}
    assert condition_lines(conditions) == {
        "processor": "X; 1 core (numbers 3) for this process; 1 thread",
        "GPU": "NVIDIA L4; 24 GB; compute capability 8.9; driver 570; CUDA 12.8; power at most 72 W",
        "versions": "torch 2",
        "measured": "11 rounds, up to 15 while an engine has not settled; blocks of 0.1 s; budget 1.5 minutes",
        "later fact": "7",
    }
    assert condition_lines({}) == {}


def test_ids_of_two_pictures_differ(page):
    ids = re.findall(r'<(?:g|clipPath|path)[^>]*\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_runs_of_several_machines_stand_side_by_side_each_against_its_own_baseline():
    device = record(conditions={"cpu": "Cortex <A72>", "threads": 4, "cores": 4, "versions": {}})
    device["results"] = [
        row | {"engine": row["engine"].replace("eager-fp32", "onnx-fp32"), "median_ms": 9 * row["median_ms"]}
        for row in device["results"]
    ]
    page = results_page({"own.json": record(), "device.json": device}, {}, {})
    first = page[: page.index("own.json: Latency against depth")]
    cells = re.findall(r"<td>([^<]*)</td>", first)
    rows = [cells[at : at + 9] for at in range(0, len(cells), 9)]
    both = [row for row in rows if row[:3] == ["resnet50", "openvino-int8-cpu", "1"]]
    assert [(row[3], row[4], row[5], row[8]) for row in both] == [
        ("own.json", "Some &lt;CPU&gt;", "4.91", "x eager"),
        ("device.json", "Cortex &lt;A72&gt;", "44.2", "x FP32 file"),
    ]
    assert "device.json: Latency against depth" in page


def test_a_disturbed_run_is_marked():
    noise = {"network": "resnet18", "batch": 1, "disturbed": True, "reasons": ["other processes took 30% of the cores"]}
    disturbed_record = record(disturbed=True, noise=[noise])
    assert "Disturbed run." in html_report(disturbed_record)
    assert conclusions(disturbed_record)[-1].startswith(
        "DISTURBED: 1 of 1 blocks; resnet18 batch 1: other processes took 30%"
    )


@pytest.mark.parametrize(("slow_ms", "quiet"), [(12.0, True), (20.0, False)])
def test_rounds_of_eager_that_differ_are_said_although_no_process_disturbed(slow_ms, quiet):
    disturbed_record = record(noise=[{"network": "resnet18", "batch": 1, "disturbed": False, "reasons": []}])
    eager = next(row for row in disturbed_record["results"] if row["engine"] == "eager-fp32")
    eager["round_medians_ms"] = [10.0, slow_ms] * 4
    said = conclusions(disturbed_record)[-1]
    assert said.startswith(
        "The machine was quiet" if quiet else "No other process used the cores, but the baseline's own"
    )
    assert quiet or f"{eager['network']} batch {eager['batch']}: 10 to 20 ms" in said


def test_what_the_run_says():
    said = conclusions(record())
    assert said[0] == (
        "Batch 1: openvino-int8-cpu is fastest, 6.7 times [6.4, 6.9] as fast as eager FP32, "
        "geometric mean over 5 networks."
    )
    assert any(line.startswith("openvino, batch 8: INT8 pays at every measured depth, 3.6 to 3.6") for line in said)
    assert any("70 % of the" in line for line in said)
    assert any(line.endswith("to the first outputs: 0.46 s (resnet18 openvino-int8-cpu).") for line in said)
    assert said[-1] == "The machine was quiet in every block."


@pytest.mark.parametrize(
    ("speeds", "rounds", "said"),
    [
        ({18: 0.9}, 8, "INT8 does not pay."),
        ({18: 1.0}, 8, "INT8 is undecided."),
        ({18: 0.9, 34: 1.0}, 8, "INT8 is undecided at depth 34; does not pay at depth 18."),
        (
            {18: 2.0, 34: 1.0, 50: 0.8, 101: 1.5},
            8,
            "INT8 pays at depth 18, 101, 1.5 to 2.0 times as fast as FP32; is undecided at depth 34; "
            "does not pay at depth 50.",
        ),
        ({18: 1.0, 34: 2.0, 50: 3.0}, 8, "INT8 pays from depth 34 on, 2.0 to 3.0 times as fast as FP32; is undecided"),
        ({18: 2.0}, 5, "INT8 is not compared, n = 5: no ratio from fewer than six rounds; measure longer"),
        ({18: 2.0, 34: 2.0}, 6, "INT8 pays at every measured depth, 2.0 to 2.0 times as fast as FP32."),
    ],
)
def test_where_int8_pays_does_not_or_is_undecided(speeds, rounds, said):
    rows = []
    for depth, speed in speeds.items():
        for engine, ms, jitter in (("openvino-fp32-cpu", 1.0, 0.01), ("openvino-int8-cpu", 1 / speed, -0.01)):
            times = [ms * (1 + jitter * (-1) ** i) for i in range(rounds)]
            rows.append(result(depth, engine, 1) | {"round_medians_ms": times})
    sentences = conclusions(record(results=rows, break_even=break_even(rows)))
    assert any(line.startswith(f"openvino, batch 1: {said}") for line in sentences), sentences


def race(*cells):
    """Rows of eager, and of engines with their factors over it on the networks of these depths."""
    return [result(depth, "eager-fp32", 1) for depth in dict.fromkeys(depth for _, depth, _ in cells)] + [
        result(depth, engine, 1) | {"times_faster": times, "times_faster_ci": [times * 0.99, times * 1.01]}
        for engine, depth, times in cells
    ]


def test_the_fastest_engine_has_an_interval_and_rivals_that_are_near_are_named():
    clear = race(*((name, depth, times) for name, times in (("openvino-int8-cpu", 6.0), ("onnxruntime-int8-cpu", 3.0))
                   for depth in (18, 34, 50)))  # fmt: skip
    said = conclusions(record(results=clear, fits=[], break_even=[]))
    assert said[0] == (
        "Batch 1: openvino-int8-cpu is fastest, 6.0 times [5.7, 6.3] as fast as eager FP32, "
        "geometric mean over 3 networks."
    )
    near = race(("openvino-int8-cpu", 18, 6.0), ("onnxruntime-int8-cpu", 18, 5.8))
    assert conclusions(record(results=near, fits=[], break_even=[]))[0] == (
        "Batch 1: which is fastest is not told apart: openvino-int8-cpu 6.0 times [5.5, 6.5], "
        "onnxruntime-int8-cpu 5.8 times [5.3, 6.3] as fast as eager FP32."
    )


def test_engines_race_on_the_same_networks_only():
    """An engine that only has the network where everything is quick wins by that alone."""
    rows = race(("openvino-fp32-cpu", 18, 9.0), ("openvino-int8-cpu", 18, 9.5), ("openvino-int8-cpu", 50, 4.0))
    said = conclusions(record(results=rows, fits=[], break_even=[]))
    assert said[0].startswith("Batch 1: openvino-int8-cpu is fastest, 6.2 times [")
    assert said[1] == "Batch 1: not among them, as not all of these networks have it: openvino-fp32-cpu."


def test_lines_and_intervals_of_an_older_run_are_drawn_anew(tmp_path):
    old = record()
    old["fits"] = [{"engine": fit["engine"], "batch": fit["batch"], "fixed_ms": -15.6, "ms_per_gmac": 1.0,
                    "residual_percent": {"resnet18": 1.0}} for fit in old["fits"]]  # fmt: skip
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert run(["report", str(tmp_path / "old.json"), "--html", str(tmp_path / "r.html")]) == 0
    assert "-15.6" not in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("rounds", [1, 5])
def test_an_old_run_of_few_rounds_shows_no_factor(tmp_path, rounds):
    """As earlier versions stored it, with factors and intervals of any number of rounds."""
    confidence = {"ci_confidence": 1 - 2 * 0.5**rounds}
    rows = [row | {"round_medians_ms": row["round_medians_ms"][:rounds], "times_faster": 77.77} | confidence
            for row in record()["results"]]  # fmt: skip
    point = {"depth": 18, "network": "resnet18", "times_faster": 77.77, "ci": [77.77, 77.77]} | confidence
    curve = {"backend": "openvino", "batch": 1, "pays_from_depth": 18, "always": True, "curve": [point]}
    peer = {"network": "resnet18", "batch": 1, "source": "engine", "engine": "openvino-int8-cpu", "peer": "eager-fp32"}
    peer |= {"ratio": 77.77, "ratio_ci": [77.77, 77.77]} | confidence
    (tmp_path / "old.json").write_text(json.dumps(record(results=rows, break_even=[curve], against_peers=[peer])))
    arguments = ["report", str(tmp_path / "old.json"), "--html", str(tmp_path / "r.html")]
    assert run([*arguments, "--pictures", str(tmp_path / "p")]) == 0
    page = re.sub("<svg.*?</svg>", "", (tmp_path / "r.html").read_text(), flags=re.DOTALL)
    assert "77.8" not in page
    assert "77.77" not in page
    assert page.count(f"n = {rounds}: no ratio from fewer than six rounds") == 5  # two batches, INT8 at both, peers
    assert not (tmp_path / "p" / "int8.svg").exists()


def test_accuracy_gives_the_pareto_picture(tmp_path):
    engine = {"engine": "openvino-int8-cpu", "n": 500, "fp32_top1": 76.0, "top1": 75.5, "drop_pp": 0.5}
    engine |= {"drop_ci_pp": [0.1, 0.9], "flips_percent": 2.0, "sqnr_db": 29.0}
    one = [row for row in record()["results"] if row["depth"] == 50]
    (tmp_path / "bench.json").write_text(json.dumps(record(results=one)))
    (tmp_path / "accuracy.json").write_text(json.dumps({"engines": [engine], "conditions": {}}))
    arguments = ["report", str(tmp_path / "bench.json"), str(tmp_path / "accuracy.json")]
    assert run([*arguments, "--html", str(tmp_path / "r.html"), "--pictures", str(tmp_path / "p")]) == 0
    assert (tmp_path / "p" / "pareto.svg").is_file()
    assert (tmp_path / "r.html").read_text().count(
        '<svg class="wide"'
    ) == 3  # roofline, layers, accuracy against latency


PARITY = {"engine": "e", "live": None, "problems": [], "not_run": "another machine", "verdict": "NOT RUN"}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"engines": [1]}', 2),
        (b'{"engines": []}', 2),
        (b'{"engines": [{"engine": "e", "top1": 1}]}', 2),
        (b'{"engines": [{"engine": "e", "live": {"max_abs": 1}, "problems": [], "verdict": "PASS"}]}', 2),
        (json.dumps({"engines": [PARITY]}).encode(), 2),  # without conditions
        (b'{"engines": 1}', 2),
        (b"[]", 2),
        (b"\xff" * 9999, 2),
        (None, 4),
    ],
)
def test_a_result_of_another_kind_is_one_short_line(content, code, tmp_path, capsys):
    (tmp_path / "bench.json").write_text(json.dumps(record()))
    if content is not None:
        (tmp_path / "other.json").write_bytes(content)
    assert run(["report", str(tmp_path / "bench.json"), str(tmp_path / "other.json")]) == code
    said = capsys.readouterr().err
    assert "other.json: expected" in said
    assert len(said) < 400
    assert not (tmp_path / "bench.html").exists()


def test_parity_and_accuracy_of_two_machines_stand_side_by_side(tmp_path):
    own, board = {"cpu": "Some <CPU>"}, {"cpu": "ARMv8", "board": {"model": "NVIDIA Jetson Orin"}}
    live = {"max_abs": 0.5, "sqnr_db": 34.56, "top1_agreement": 0.9375}
    row = {"engine": "e-int8", "live": live, "problems": ["single images: 3 <dB"], "not_run": None, "verdict": "FAIL"}
    drop = {"engine": "e-int8", "n": 400, "fp32_top1": 76.0, "top1": 75.5, "drop_pp": 0.5, "drop_ci_pp": [0.1, 0.9]}
    files = {
        "v.json": {"reference": "eager", "engines": [row, PARITY], "conditions": own},
        "dv.json": {"reference": "golden-outputs", "engines": [row | {"problems": []}], "conditions": board},
        "a.json": {"data": "photos/", "engines": [drop | {"verdict": "PASS"}], "conditions": own},
        "da.json": {"data": "photos/", "engines": [drop | {"top1": 74.0, "verdict": None}], "conditions": board},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert run(["report", *[str(tmp_path / name) for name in files], "--html", str(tmp_path / "all.html")]) == 0
    page = (tmp_path / "all.html").read_text()
    rows = [re.findall("<td>(.*?)</td>", line) for line in re.findall("<tr>(.*?)</tr>", page) if "<td>" in line]
    board_name = "NVIDIA Jetson Orin"
    assert rows == [
        ["e", "v.json", "NOT RUN", "Some &lt;CPU&gt;", "eager", "-", "-", "-"],
        ["e-int8", "v.json", "FAIL", "Some &lt;CPU&gt;", "eager", "5.0e-01", "34.6", "93.8"],
        ["e-int8", "dv.json", "FAIL", board_name, "golden-outputs", "5.0e-01", "34.6", "93.8"],
        ["e-int8", "a.json", "PASS", "Some &lt;CPU&gt;", "photos/", "400", "76.00", "75.50", "0.50", "0.10 to 0.90"],
        ["e-int8", "da.json", "-", board_name, "photos/", "400", "76.00", "74.00", "0.50", "0.10 to 0.90"],
    ]
    assert "v.json, e-int8: single images: 3 &lt;dB" in page
    assert "v.json, e: another machine" in page
    assert "Latency" not in page


def test_pictures_are_of_one_bench(tmp_path, capsys):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(record()))
    assert run(["report", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--pictures", str(tmp_path / "p")]) == 2
    assert "expected one bench.json, found 2" in capsys.readouterr().err


def test_an_interrupted_run_is_reported_as_such(tmp_path):
    (tmp_path / "bench.json").write_text(json.dumps(record(complete=False)))
    assert run(["report", str(tmp_path / "bench.json")]) == 0
    assert "INTERRUPTED" in (tmp_path / "bench.html").read_text()


def test_a_file_that_is_no_run_is_one_line(tmp_path, capsys):
    (tmp_path / "x.json").write_text("{}")
    assert run(["report", str(tmp_path / "x.json")]) == 2
    assert "expected results[] of bench --out, or engines[]" in capsys.readouterr().err


def test_pictures_are_valid_and_the_same_twice(tmp_path):
    figures = {name: figure for name, figure in draw_all(record()).items() if name in ("int8", "depth-batch1")}
    first = {path.name: path.read_bytes() for path in write_charts(figures, tmp_path / "a")}
    again = {name: figure for name, figure in draw_all(record()).items() if name in figures}
    assert first == {path.name: path.read_bytes() for path in write_charts(again, tmp_path / "b")}
    assert sorted(first) == ["depth-batch1.png", "depth-batch1.svg", "int8.png", "int8.svg"]
    ElementTree.fromstring(first["int8.svg"])
    ElementTree.fromstring(themed_svg(figures["int8"], "int8", "a picture"))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=7))
def test_names_are_spread_apart_and_stay_inside(wanted):
    places = spread(sorted(wanted), 12.0, 0.0, 100.0)
    assert all(b - a >= 12.0 - 1e-9 for a, b in pairwise(places))
    assert places[-1] <= 100.0 + 1e-9
    assert places[0] >= -1e-9


def test_what_cells_without_transfers_are_is_said_where_there_are_some(capsys):
    from resnetrt.cli.bench import _show

    plain = record(noise=[], loadgen=[], contexts=[], against_peers=[], overhead=[], memory=[], end_to_end=[])
    words = "the same engine without transfers. Its images lie on the GPU already, and the outputs stay there."
    rows = plain["results"]
    in_place = plain | {"results": [*rows, rows[-1] | {"engine": "tensorrt-fp16-sm90:device", "data": "device"}]}
    for each, said in ((plain, 0), (in_place, 1)):
        assert html_report(each).count(f"ENGINE:device: {words}") == said
        _show(each, as_json=False)
        assert " ".join(capsys.readouterr().out.split()).count(words) == said
