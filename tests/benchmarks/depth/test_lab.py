"""The depth lab on a tiny network: what it measures, records, leaves out, and what it concludes."""

import importlib.util
import json

import double_machine
import numpy as np
import pytest
from host_cuda import HostCuda
from tiny_bundle import make_bundle

from resnetrt.benchmarks.compare.same_conditions import check_request, read_partial
from resnetrt.benchmarks.depth import lab
from resnetrt.benchmarks.depth.fit import break_even, fit_all, fit_line
from resnetrt.benchmarks.depth.lab import run_lab
from resnetrt.benchmarks.depth.plan import LabOptions, Subject, bundle_subject, lab_conditions, request_of
from resnetrt.benchmarks.depth.shares import Shares
from resnetrt.benchmarks.measure.peaks import copy_rate, merge_peaks, write_matmul
from resnetrt.benchmarks.measure.roofline import annotate, layer_bytes
from resnetrt.benchmarks.measure.timing import Schedule, measure
from resnetrt.errors import BackendMissing, UsageError
from resnetrt.export.engines.compile import compile_variant
from resnetrt.models.cost import Cost, LayerCost
from resnetrt.runtime.backends import tensorrt_library
from resnetrt.runtime.cuda import Device, device

COST = Cost(1000, 4_000_000, (LayerCost("conv", 4_000_000, 1000, (10, 10, 10)),))
PEAKS = {"best": {"fp32": 100.0, "int8": 400.0}, "copy_gb_s": 20.0}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without what is measured once a run and takes seconds."""
    monkeypatch.setattr("resnetrt.benchmarks.depth.lab.measure_peaks", lambda *_: PEAKS | {"matmul": []})
    monkeypatch.setattr(
        "resnetrt.benchmarks.depth.lab.measure_overhead", lambda *_: [{"backend": "b", "overhead_us": 1.0}]
    )


def row(network, precision, ms, *, depth=18, batch=1, gmacs=1.8, backend="openvino", rounds=None):
    made = {"network": network, "depth": depth, "engine": f"{backend}-{precision}-cpu", "backend": backend}
    made |= {"precision": precision, "batch": batch, "gmacs": gmacs, "median_ms": ms, "threads": 2}
    return made | {"round_medians_ms": rounds or [ms * (1 + 0.001 * i) for i in range(8)]}


def test_a_lab_run_of_one_bundle(tmp_path):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    engines = [compile_variant(bundle, variant, "onnxruntime") for variant in ("fp32", "int8.cpu")]
    subject = bundle_subject(bundle, (), ())
    assert list(subject.engines) == engines
    lines = []
    options = LabOptions(batches=(1, 2), threads=1, rounds=2, budget_s=200.0, profile=engines[0])
    record = run_lab([subject], options, lines.append)
    # a model without a definition has no eager, so its FP32 file is the baseline
    timed = ["onnx-fp32", *engines]
    assert [(row["engine"], row["batch"]) for row in record["results"]] == [(e, b) for b in (1, 2) for e in timed]
    assert all(
        {"median_ms", "gops", "limit", "disturbed", "ci_ms", "p99_ms"} <= row.keys() for row in record["results"]
    )
    parts = ["tiny batch 1, 3 engines", "tiny batch 2, 3 engines", "tiny end to end"]
    parts += [f"tiny {engine} memory" for engine in engines]
    begun = [line for line in lines if line.startswith("tiny") and line.endswith(" ...")]
    assert [line.startswith(part) for line, part in zip(begun, parts, strict=True)] == [True] * 5, begun
    assert {row["source"] for row in record["end_to_end"]} == {"jpeg", "frame"}
    assert [row["engine"] for row in record["memory"]] == engines
    assert all(row["peak_rss_bytes"] > 10e6 and row["start_to_first_ms"] > 0 for row in record["memory"])
    assert record["layers"][0]["engine"] == engines[0]
    assert any("eager-fp32" in line for line in record["left_out"])
    assert [noise["batch"] for noise in record["noise"]] == [1, 2]
    assert record["conditions"]["threads"] == 1
    assert any(line.startswith("tiny batch 2, ms: ") for line in lines)


def test_engines_that_take_frames_are_timed_on_frames(tmp_path):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    engine = compile_variant(bundle, "fp32.frames", "onnxruntime")
    assert bundle.read_engine(engine).inputs[0].dtype == "uint8"
    options = LabOptions(batches=(1, 2), threads=1, rounds=2, budget_s=200.0, profile=engine, memory=False)
    record = run_lab([bundle_subject(bundle, (), ())], options, lambda _: None)
    own = [row for row in record["results"] if row["engine"] == engine]
    assert [(row["input"], row["batch"]) for row in own] == [("uint8", 1), ("uint8", 2)]
    assert [row["engine"] for row in record["end_to_end"]].count(engine) == 2
    assert record["layers"]


def test_the_gpu_that_is_chosen_is_a_condition_of_the_run(monkeypatch):
    here = (Device(0, (8, 6), "NVIDIA A10"), Device(1, (8, 9), "NVIDIA L4"))
    monkeypatch.setattr(device, "find_devices", lambda: (here, ""))
    assert "device" not in lab_conditions(LabOptions())
    monkeypatch.setenv("RESNETRT_DEVICE", "1")
    assert lab_conditions(LabOptions())["device"] == "device 1 (NVIDIA L4, sm89)"


def test_the_gpu_of_the_cells_is_watched(tmp_path, monkeypatch):
    bundle, cuda, watched = make_bundle(tmp_path / "tiny.bundle"), HostCuda(), []
    double_machine.install(bundle.variant_file("fp32"), cuda, monkeypatch.setattr, monkeypatch.setitem)
    double_machine.add_engine(bundle)
    here = (Device(0, (8, 6), uuid="0a"), Device(1, (8, 6), uuid="14"))
    monkeypatch.setattr(device, "find_devices", lambda: (here, ""))
    monkeypatch.setenv("RESNETRT_DEVICE", "1")
    monkeypatch.setattr(tensorrt_library, "find_devices", lambda: (here, ""))
    real = lab.watch
    monkeypatch.setattr(lab, "watch", lambda gpu="": watched.append(gpu) or real(gpu))
    monkeypatch.setattr(lab, "measure_gpu_peaks", lambda *_: PEAKS | {"matmul": []})
    options = LabOptions(batches=(1,), threads=1, rounds=2, end_to_end=False, memory=False, contexts=(2,))
    record = run_lab([Subject(bundle, [double_machine.ENGINE])], options, lambda _: None)
    assert {row["device"] for row in record["results"]} == {"cpu", "gpu"}
    assert watched == ["14", "14"]


def test_engines_for_frames_only_are_timed_end_to_end_only(tmp_path):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    fp32, int8 = (compile_variant(bundle, variant, "onnxruntime") for variant in ("fp32", "int8.cpu"))
    options = LabOptions(batches=(1,), threads=1, rounds=2, budget_s=200.0, memory=False)
    record = run_lab([Subject(bundle, [fp32], (), [int8])], options, lambda _: None)
    assert [row["engine"] for row in record["results"]] == ["onnx-fp32", fp32]
    assert [row["engine"] for row in record["end_to_end"]] == ["onnx-fp32"] * 2 + [fp32] * 2 + [int8] * 2
    assert record["request"]["engines"] == {"tiny": [fp32, int8]}


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    engine = compile_variant(bundle, "fp32", "onnxruntime")
    subject, kept = bundle_subject(bundle, (), ()), []
    options = LabOptions(batches=(1, 2), threads=1, rounds=2, budget_s=200.0, profile=engine)
    whole = run_lab([subject], options, lambda _: None, lambda item: kept.append(json.dumps(item)))
    assert [(len(item["results"]), len(item["end_to_end"]), len(item["memory"])) for item in map(json.loads, kept)] == [
        (2, 0, 0), (4, 0, 0), (4, 4, 0), (4, 4, 1)
    ]  # fmt: skip
    partial = json.loads(kept[0]) | {"left_out": ["x", "tiny batch 2: the budget was spent"]}
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(partial))
    earlier = read_partial(path, lab_conditions(options))
    check_request(path, earlier, request_of([subject], options))
    record = run_lab([subject], options, lambda _: None, None, earlier)
    assert record["complete"]
    assert record["results"][0]["round_medians_ms"] == partial["results"][0]["round_medians_ms"], "not measured again"
    assert record["overhead"] == partial["overhead"]
    for name in ("results", "models", "end_to_end", "memory", "noise", "layers"):
        assert len(record[name]) == len(whole[name]) > 0, name
    assert record["left_out"][0] == "x"
    assert not any("budget" in line for line in record["left_out"])
    assert record["seconds"] > partial["seconds"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"conditions": {"schedule": {"budget_s": 9.0}}}, None),
        ({"conditions": {"threads": 7}}, "threads 7 then, 1 now"),
        ({"conditions": {"revision": "abc"}}, "revision abc then, "),
        ({"conditions": {"versions": {"openvino": "0"}}}, "versions.openvino 0 then, "),
        ({"conditions": {"schedule": {"rounds": 99}}}, "schedule "),
        ({"request": {"batches": [1]}}, r"batches \[1\] then, \[1, 2\] now"),
        ({"request": {"content": {"tiny": {"fp32.onnx": "0" * 12}}}}, "tiny/fp32.onnx 000000000000 then, "),
        ({"request": {"content": {"tiny": {"golden.safetensors": "0" * 12}}}}, "tiny/golden.safetensors 0"),
        ({"request": {"content": {"tiny": {"preprocessing": None}}}}, "tiny/preprocessing None then, "),
        ({"request": {"peers": True}}, "peers True then, False now"),
        ({"complete": True}, "expected an interrupted run, found a finished one"),
        ({"complete": True, "left_out": ["tiny batch 2: the budget was spent"]}, None),
    ],
)
def test_only_the_same_run_is_gone_on_with(change, message, tmp_path):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    subject = Subject(bundle, [compile_variant(bundle, "fp32", "onnxruntime")])
    options = LabOptions(batches=(1, 2), threads=1, rounds=2, budget_s=2.0)
    request, conditions = request_of([subject], options), lab_conditions(options)
    record = {"results": [], "complete": False, "request": request, "conditions": conditions}
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(merged(record, change)))

    def go_on():
        check_request(path, read_partial(path, conditions), request)

    if message is None:
        go_on()
    else:
        with pytest.raises(UsageError, match=message):
            go_on()


def test_another_engine_of_the_same_name_is_not_gone_on_with(tmp_path):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    engine = compile_variant(bundle, "fp32", "onnxruntime")
    options = LabOptions(batches=(1, 2), threads=1, rounds=2, budget_s=2.0)
    before = request_of([Subject(bundle, [engine])], options)
    file = bundle.manifest.engines[engine].file
    with bundle.edit() as editor:
        editor.write(file, bundle.file(file).read_bytes() + b" ")
    now = request_of([Subject(bundle, [engine])], options)
    with pytest.raises(UsageError, match=f"expected the same run, found tiny/{file} .* then, .* now; start it anew"):
        check_request(tmp_path / "bench.json", {"request": before}, now)


def merged(old, new):
    """`old` with the leaves of `new`."""
    both = {key: merged(old[key], new[key]) for key in new if isinstance(new[key], dict) and key in old}
    return old | new | both


def test_an_interrupt_keeps_the_groups_that_are_measured(tmp_path, monkeypatch):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    compile_variant(bundle, "fp32", "onnxruntime")
    subject, kept = bundle_subject(bundle, (), ()), []

    def keep(record):
        kept.append(record)
        if len(kept) == 2:
            raise KeyboardInterrupt

    options = LabOptions(batches=(1, 2, 4), threads=1, rounds=2, budget_s=200.0)
    record = run_lab([subject], options, lambda _: None, keep)
    assert [(len(item["results"]), item["complete"]) for item in kept] == [(2, False), (4, False)]
    assert [row["batch"] for row in record["results"]] == [1, 1, 2, 2]
    assert (record["complete"], record["memory"], record["end_to_end"]) == (False, [], [])
    assert record["seconds_by_part"]["latency"] > 0
    assert "peers" not in record["seconds_by_part"]  # none were asked for
    monkeypatch.setattr("resnetrt.benchmarks.depth.lab.measure_latency", raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_lab([subject], options, lambda _: None)


def raise_interrupt(*_):
    raise KeyboardInterrupt


def test_a_spent_budget_leaves_the_rest_out_and_says_so(tmp_path):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    engine = compile_variant(bundle, "fp32", "onnxruntime")
    lines = []
    options = LabOptions(batches=(1, 2), threads=1, rounds=1, budget_s=1e-9)
    record = run_lab([bundle_subject(bundle, (), ())], options, lines.append)
    assert record["results"] == record["memory"] == record["end_to_end"] == []
    spent = [line for line in record["left_out"] if line.endswith(": the budget was spent")]
    assert [line.partition(":")[0] for line in spent] == [
        "tiny batch 1", "tiny batch 2", "tiny end to end", f"tiny {engine} memory"
    ]  # fmt: skip
    assert record["complete"]
    assert any(line.startswith("time: peaks 0 s") for line in lines)
    assert [line for line in lines if line.startswith("tiny") and line.endswith(" ...")] == []


def test_a_budget_is_dealt_out_by_weight_of_what_is_left():
    now = [0.0]
    share = Shares(10.0, (1.0, 1.0, 2.0), lambda: now[0])
    assert share.next() == 2.5
    now[0] = 4.0
    assert (share.next(), share.spent) == (2.0, False)
    now[0] = 7.0
    assert (share.next(), share.spent) == (3.0, False)
    now[0] = 10.0
    assert share.spent
    assert (Shares(None).next(), Shares(None).next(), Shares(None).spent) == (None, None, False)


def test_engines_are_chosen_by_precision_and_backend(tmp_path):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    _, int8 = (compile_variant(bundle, variant, "onnxruntime") for variant in ("fp32", "int8.cpu"))
    assert list(bundle_subject(bundle, ("int8",), ("onnxruntime",)).engines) == [int8]
    with pytest.raises(UsageError, match="no engine at the wanted precisions and backends; it has onnxruntime-fp32"):
        bundle_subject(bundle, ("int8",), ("openvino",))


def test_engines_that_were_asked_for_and_cannot_run_here_are_missing_for_a_reason(tmp_path, monkeypatch):
    """Not "no engine at the wanted backends", which the bundle's list beside it would contradict."""
    bundle = make_bundle(tmp_path / "tiny.bundle")
    fp32, other = (compile_variant(bundle, "fp32", backend) for backend in ("onnxruntime", "openvino"))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    with pytest.raises(BackendMissing, match=f"an engine that can run here, found none: {other}: the package openvino"):
        bundle_subject(bundle, (), ("openvino",))
    subject = bundle_subject(bundle, (), ("onnxruntime", "openvino"))
    assert list(subject.engines) == [fp32]
    assert [line.partition(":")[0] for line in subject.left_out] == [other]


def test_nothing_and_twins_are_refused(tmp_path):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    compile_variant(bundle, "fp32", "onnxruntime")
    subject = bundle_subject(bundle, (), ())
    for subjects in ([], [subject, subject]):
        with pytest.raises(UsageError, match="expected each network once"):
            run_lab(subjects, LabOptions(), print)


@pytest.mark.parametrize(("wobble", "rounds"), [(0.0, 4), (0.5, 12)])
def test_a_cell_that_still_moves_gets_more_rounds(wobble, rounds):
    now, calls = [0], [0]

    def call():
        calls[0] += 1
        now[0] += round(1e6 * (1 + wobble * (calls[0] % 7) / 7))

    schedule = Schedule(rounds=4, max_rounds=12, block_calls=1, settle_s=0, warm_up_s=0)
    timing = measure({"a": call}, schedule, clock=lambda: now[0])["a"]
    assert len(timing.round_medians_ms) == rounds


def test_roofline_names_the_limit():
    assert layer_bytes(COST.layers[0], "fp32", 2) == 4 * (1000 + 2 * 2 * 1000)
    compute, memory = (
        annotate([row("n", "int8", 0.04), row("n", "int8", 0.04)], {"n": COST}, PEAKS | {"copy_gb_s": 1e3})[0],
        annotate([row("n", "int8", 0.04)], {"n": COST}, PEAKS | {"copy_gb_s": 0.1})[0],
    )
    assert (compute["gops"], compute["limit"]) == (pytest.approx(200.0), "arithmetic")
    assert compute["percent_of_peak"] == pytest.approx(50.0)
    assert (compute["floor_ms"], compute["percent_of_floor"]) == (pytest.approx(0.02), pytest.approx(50.0))
    assert (memory["limit"], memory["floor_ms"]) == ("memory", pytest.approx(3000 / 0.1e6))
    assert (compute["memory_percent"], memory["memory_percent"]) == (0.0, 100.0)


def test_the_floor_is_each_layers_own():
    """One layer limited by arithmetic, one by memory: the floor is the sum of both, not the network's larger one."""
    light = LayerCost("light", 10_000, 500_000, (1,))
    cost = Cost(501_000, 4_010_000, (COST.layers[0], light))
    annotated = annotate([row("n", "int8", 1.0)], {"n": cost}, PEAKS)[0]
    assert annotated["floor_ms"] == pytest.approx(8e6 / 400e6 + 500_002 / 20e6)
    assert annotated["memory_percent"] == pytest.approx(100 * 500_002 / 20e6 / annotated["floor_ms"])
    assert (annotated["limit"], annotated["ops_per_byte"]) == ("memory", pytest.approx(8.02e6 / 503_002))


GPU_PEAKS = {"best": {"int8": 9000.0}, "copy_gb_s": 3000.0, "matmul": []}


class TestGpuCells:
    """The peaks of a CPU say nothing about a GPU's cells: they once gave 3644 % of the peak."""

    CELL = row("n", "int8", 0.001, backend="tensorrt") | {"device": "gpu"}

    def test_without_peaks_of_the_gpu_there_is_no_share(self):
        annotated = annotate([self.CELL], {"n": COST}, PEAKS)[0]
        assert annotated["gops"] == pytest.approx(8000.0)
        names = ("percent_of_peak", "percent_of_floor", "floor_ms", "limit", "memory_percent")
        assert [annotated[name] for name in names] == [None] * 5

    def test_with_them_it_is_their_share(self):
        cpu = row("n", "int8", 0.04) | {"device": "cpu"}
        annotated = annotate([self.CELL, cpu], {"n": COST}, PEAKS | {"gpu": GPU_PEAKS})
        assert annotated[0]["percent_of_peak"] == pytest.approx(100 * 8 / 9)
        assert annotated[1]["percent_of_peak"] == pytest.approx(50.0)

    def test_a_copy_rate_that_is_unknown_gives_no_floor(self):
        annotated = annotate([self.CELL], {"n": COST}, PEAKS | {"gpu": GPU_PEAKS | {"copy_gb_s": None}})[0]
        assert (annotated["floor_ms"], annotated["percent_of_peak"]) == (None, None)

    def test_a_lab_run_marks_its_cells(self, tmp_path):
        bundle = make_bundle(tmp_path / "tiny.bundle")
        compile_variant(bundle, "fp32", "onnxruntime")
        options = LabOptions(batches=(1,), threads=1, rounds=2, budget_s=200.0, memory=False, end_to_end=False)
        record = run_lab([bundle_subject(bundle, (), ())], options, lambda _: None)
        assert [row["device"] for row in record["results"]] == ["cpu", "cpu"]
        assert "gpu" not in record["peaks"]

    def test_the_larger_of_both_measurements_is_kept(self):
        copies = [PEAKS | {"matmul": [], "gpu": GPU_PEAKS | {"copy_gb_s": copy}} for copy in (None, 2000.0)]
        merged = merge_peaks(*copies)
        assert (merged["gpu"]["copy_gb_s"], merged["gpu"]["best"]) == (2000.0, {"int8": 9000.0})
        assert merge_peaks(copies[1], PEAKS | {"matmul": []})["gpu"]["copy_gb_s"] == 2000.0


def test_what_is_unknown_stays_none():
    annotated = annotate([row("n", "bf16", 1.0), row("other", "int8", 1.0)], {"n": COST}, PEAKS)
    assert (annotated[0]["gops"], annotated[0]["percent_of_peak"], annotated[0]["limit"]) == (
        pytest.approx(8.0),
        None,
        None,
    )
    assert (annotated[1]["gops"], annotated[1]["gmacs"]) == (None, None)


def test_the_fit_finds_the_line_and_names_the_network_off_it():
    rows = [row(f"n{g}", "int8", 1 + 2 * g, gmacs=g) for g in (1.0, 2.0, 4.0, 8.0)]
    fit = fit_line(rows)
    assert (fit["fixed_ms"], fit["ms_per_gmac"]) == (pytest.approx(1.0), pytest.approx(2.0))
    assert fit["largest_residual_percent"] == pytest.approx(0, abs=1e-9)
    rows[2] = rows[2] | {"median_ms": 13.0}
    residuals = fit_line(rows)["residual_percent"]
    assert max(residuals, key=residuals.get) == "n4.0"
    assert fit_all(rows[:2]) == []


@pytest.mark.parametrize("fixed", [0.0, 0.5, 5.0])
def test_the_lines_intervals_hold_and_no_line_starts_below_zero(fixed):
    """95 % promised; of 600 lines 93 % or more in all but one case of a hundred."""
    rng = np.random.default_rng(4)
    gmacs = np.array([1.8, 3.6, 4.1, 7.8, 11.5])
    starts = slopes = 0
    for _ in range(600):
        times = (fixed + 2 * gmacs) * np.exp(0.05 * rng.standard_normal(5))
        fit = fit_line([row(f"n{g}", "int8", ms, gmacs=g) for g, ms in zip(gmacs, times, strict=True)])
        assert fit["fixed_ms"] >= 0
        starts += fit["fixed_ms_ci"][0] <= fixed <= fit["fixed_ms_ci"][1]
        slopes += fit["ms_per_gmac_ci"][0] <= 2 <= fit["ms_per_gmac_ci"][1]
    assert min(starts, slopes) >= 558


def test_time_that_grows_faster_than_gmacs_is_no_line():
    fit = fit_line([row(f"n{g}", "int8", g * g, gmacs=g) for g in (1.0, 2.0, 4.0, 8.0)])
    assert (fit["is_line"], fit["fixed_ms"]) == (True, 0.0), "four networks don't tell"
    fit = fit_line([row(f"n{g}", "int8", 3 * g - 2, gmacs=g) for g in (1.0, 2.0, 4.0, 8.0)])
    assert (fit["is_line"], fit["fixed_ms"], fit["fixed_ms_ci"]) == (False, 0.0, [0.0, 0.0])


def test_where_int8_pays_holds_in_another_run():
    """INT8 exactly as fast at five depths, cells 3 % apart from run to run: 5 % of 300 sentences may claim otherwise.

    More than 24 come about in one of a hundred cases; rounds alone claimed it in most.
    """
    rng = np.random.default_rng(5)
    claims = 0
    for _ in range(300):
        rows = []
        for depth in (18, 34, 50, 101, 152):
            for precision in ("fp32", "int8"):
                level = np.exp(0.03 * rng.standard_normal())
                times = level * np.exp(0.01 * rng.standard_normal(11))
                rows.append(row(f"n{depth}", precision, 1.0, depth=depth, rounds=list(times)))
        (crossing,) = break_even(rows)
        claims += any(point["ci"][0] > 1 or point["ci"][1] < 1 for point in crossing["curve"])
    assert claims <= 24


def test_break_even_is_the_depth_from_which_the_whole_interval_pays():
    rows = []
    for depth, int8 in ((18, 1.2), (34, 0.8), (50, 1.0), (101, 0.5), (152, 0.4)):
        rows += [row(f"n{depth}", "fp32", 1.0, depth=depth)]
        rows += [row(f"n{depth}", "int8", int8, depth=depth)]
    (crossing,) = break_even(rows)
    assert (crossing["pays_from_depth"], crossing["always"]) == (101, False)
    assert [point["depth"] for point in crossing["curve"]] == [18, 34, 50, 101, 152]
    assert break_even(rows[-2:])[0]["always"]
    assert break_even(rows[:2])[0]["pays_from_depth"] is None
    assert break_even(rows[:1]) == []


def test_peaks_keep_the_larger_of_two():
    first = {"matmul": [{"precision": "int8", "gops": 5.0}, {"precision": "fp32", "gops": None}], "copy_gb_s": 3.0}
    second = {"matmul": [{"precision": "int8", "gops": 7.0}, {"precision": "fp32", "gops": None}], "copy_gb_s": 2.0}
    assert merge_peaks(first, second) | {"matmul": 0} == {"matmul": 0, "copy_gb_s": 3.0, "best": {"int8": 7.0}}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_peak_model_is_valid_and_computes(precision, tmp_path):
    import numpy as np
    import onnx
    import onnxruntime

    path = tmp_path / "peak.onnx"
    write_matmul(path, (4, 16, 3), precision)
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"x": np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)})
    assert product.shape == (4, 16)
    assert 0.01 < product.max() < 100


def test_a_copy_takes_time(monkeypatch):
    monkeypatch.setattr("resnetrt.benchmarks.measure.peaks._COPY_BYTES", 1 << 20)
    assert copy_rate(2) > 0
