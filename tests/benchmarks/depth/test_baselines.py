"""Peers of the same run: NNCF's own path runs and agrees, and the fastest own engine is compared with each."""

import importlib.util
import shutil

import numpy as np
import pytest
from tiny_bundle import PREPROCESSING, frames, make_bundle

from resnetrt.benchmarks.depth import baselines
from resnetrt.benchmarks.depth.baselines import Peer, against_peers, closest
from resnetrt.benchmarks.depth.fit import break_even
from resnetrt.benchmarks.depth.lab import run_lab
from resnetrt.benchmarks.depth.plan import LabOptions, Subject
from resnetrt.benchmarks.depth.rivals import open_peers
from resnetrt.benchmarks.measure.end_to_end import Route, measure_end_to_end
from resnetrt.benchmarks.measure.timing import Schedule
from resnetrt.benchmarks.reports.conclusions import conclusions
from resnetrt.export.engines.compile import compile_variant
from resnetrt.golden import Golden
from resnetrt.parity import compare

QUICK = Schedule(rounds=2, block_calls=2, settle_s=0, warm_up_s=0)
NEEDS_NNCF = pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="nncf is not installed (extra peers)")


def cell(engine, ms, *, network="n", batch=1, source=None):
    made = {"network": network, "batch": batch, "engine": engine, "median_ms": ms}
    made["round_medians_ms"] = [ms * factor for factor in (0.98, 0.99, 1.0, 1.0, 1.01, 1.02)]
    return made if source is None else made | {"source": source}


def test_the_fastest_own_engine_stands_beside_each_peer():
    results = [
        cell("eager-fp32", 8.0),
        cell("nncf-openvino-int8", 1.0),
        cell("openvino-int8-cpu", 1.1),
        cell("onnxruntime-int8-cpu", 2.0),
    ]
    routes = [cell("nncf-openvino-int8-ppp", 2.0, source="frame"), cell("openvino-int8-cpu-uint8", 1.0, source="frame")]
    ratios = against_peers(results, routes)
    assert [(row["source"], row["engine"], row["peer"], round(row["ratio"], 6)) for row in ratios] == [
        ("engine", "openvino-int8-cpu", "eager-fp32", 0.1375),
        ("engine", "openvino-int8-cpu", "nncf-openvino-int8", 1.1),
        ("frame", "openvino-int8-cpu-uint8", "nncf-openvino-int8-ppp", 0.5),
    ]
    assert [row["peer"] for row in closest(ratios)] == ["nncf-openvino-int8", "nncf-openvino-int8-ppp"]
    said = conclusions({"results": [], "against_peers": ratios})
    assert said[0].startswith("Against the closest peer, engine alone, batch 1: 1.10 of its time; n is worst")
    assert said[1].startswith("Against the closest peer, from a uint8 frame, batch 1: 0.50 of its time")


@pytest.mark.parametrize(
    ("rounds", "ending"),
    [(n, f"n = {n}: no ratio from fewer than six rounds; measure longer with --budget, or ask for at least six with "
      "--rounds.") for n in (1, 5)] + [(6, "[1.10, 1.10].")],
)  # fmt: skip
def test_few_rounds_give_no_ratio_and_say_how_to_get_one(rounds, ending):
    few = [cell(engine, ms) for engine, ms in (("nncf-openvino-int8", 1.0), ("openvino-int8-cpu", 1.1))]
    for row in few:
        row["round_medians_ms"] = row["round_medians_ms"][:rounds]
    ratios = against_peers(few, [])
    said = conclusions({"results": [], "against_peers": ratios})
    assert said[0].endswith(ending)
    assert (ratios[0]["ratio"] is None) == (ratios[0]["ratio_ci"] is None) == (rounds < 6)


def test_eager_alone_is_no_comparison_with_peers():
    assert against_peers([cell("eager-fp32", 8.0), cell("openvino-int8-cpu", 1.1)], []) == []


def test_every_path_gets_the_pixels_of_the_same_photograph():
    seen = {}

    def route(name):
        def infer(batch):
            seen.setdefault(name, []).append(batch)

        return Route((lambda frames: frames) if name == "frames" else PREPROCESSING.normalize, infer)

    rows = measure_end_to_end("n", PREPROCESSING, {"images": route("images"), "frames": route("frames")}, QUICK)
    assert [(row["engine"], row["source"]) for row in rows] == [
        (engine, source) for engine in ("images", "frames") for source in ("jpeg", "frame")
    ]
    assert {batch.dtype.name for batch in seen["frames"]} == {"uint8"}
    for batch in seen["frames"]:
        np.testing.assert_array_equal(PREPROCESSING.normalize(batch), seen["images"][0])


def test_a_peer_that_is_not_here_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("resnetrt.parts.importlib.util.find_spec", lambda _: None)
    peers = list(open_peers(None, make_bundle(tmp_path / "tiny.bundle"), tmp_path / "work", 1))
    assert peers == [
        "torch-compile-fp32: the package torch is not installed; run: pip install 'resnetrt[torch]'",
        *["nncf-openvino-int8: the package nncf is not installed; run: pip install 'resnetrt[peers]'"] * 2,
    ]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: g++ is not installed")
def test_torch_compile_gives_up_on_no_network_of_a_long_run(tmp_path):
    torch = pytest.importorskip("torch")
    bundle, images = make_bundle(tmp_path / "tiny.bundle"), np.ones((1, 3, 8, 8), np.float32)
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        for _ in range(2):
            module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
            compiled = next(iter(open_peers(module, bundle, tmp_path / "work", 1)))
            assert isinstance(compiled, Peer), compiled
            np.testing.assert_allclose(
                compiled.infer(images), module(torch.from_numpy(images)).detach(), rtol=1e-4, atol=1e-5
            )


@NEEDS_NNCF
@pytest.mark.slow
def test_nncf_is_made_once_runs_and_stands_in_the_record(tmp_path, monkeypatch):
    peaks = {"best": {"fp32": 100.0, "int8": 400.0}, "copy_gb_s": 20.0, "matmul": []}
    monkeypatch.setattr("resnetrt.benchmarks.depth.lab.measure_peaks", lambda *_: peaks)
    monkeypatch.setattr("resnetrt.benchmarks.depth.lab.measure_overhead", lambda *_: [])
    bundle, work = make_bundle(tmp_path / "tiny.bundle"), tmp_path / "work"
    engine = compile_variant(bundle, "fp32", "openvino")
    peers = {peer.engine: peer for peer in open_peers(None, bundle, work, 1) if isinstance(peer, Peer)}
    assert list(peers) == ["nncf-openvino-int8", "nncf-openvino-int8-ppp"]
    golden = Golden.of(bundle)
    for peer in peers.values():
        assert compare(golden.logits, peer.infer(peer.prepare(golden.frames))).sqnr_db > 15
        assert peer.infer(peer.prepare(frames(3))).shape == (3, 10)
    made = {path: path.stat().st_mtime_ns for path in work.iterdir()}
    assert len(made) == 4

    options = LabOptions(batches=(2,), threads=1, rounds=2, budget_s=200.0, peers=work, memory=False)
    record = run_lab([Subject(bundle, [engine])], options, lambda _: None)
    assert {path: path.stat().st_mtime_ns for path in work.iterdir()} == made, "an earlier run's model is used"
    assert [row["engine"] for row in record["results"]] == ["nncf-openvino-int8", engine]
    assert {row["engine"] for row in record["end_to_end"]} == {*peers, engine}
    assert {(row["source"], row["peer"]) for row in record["against_peers"]} == {
        ("engine", "nncf-openvino-int8"),
        *((source, peer) for source in ("frame", "jpeg") for peer in peers),
    }


def test_torch_on_the_gpu_is_named_apart_from_torch_on_the_cpu(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    bundle, images = make_bundle(tmp_path / "tiny.bundle"), np.ones((1, 3, 8, 8), np.float32)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten()).eval()
    monkeypatch.setattr(baselines, "torch_gpu", lambda: None)
    assert list(baselines.eager_on_gpu(module, bundle, 1)) == []
    monkeypatch.setattr(baselines, "torch_gpu", lambda: "cpu")
    peers = list(baselines.eager_on_gpu(module, bundle, 1))
    contenders = [item for peer in peers for item in peer.contenders]
    assert [(item.engine, item.precision, item.device) for item in contenders] == [
        ("eager-fp32-gpu", "fp32", "gpu"),
        ("eager-fp32-gpu:device", "fp32", "gpu"),
        ("eager-fp16-gpu", "fp16", "gpu"),
        ("eager-fp16-gpu:device", "fp16", "gpu"),
    ]
    expected = module(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(peers[0].infer(images), expected, rtol=1e-4, atol=1e-5)
    assert {item.engine for item in contenders} <= set(baselines.PEERS)
    assert [item.device for item in baselines.eager(module, bundle, 1).contenders] == ["cpu"]


def test_cells_without_transfers_are_compared_with_each_other_only():
    """An engine whose images lie on the device once would have won against torch that gets them from the host."""

    def timed(engine, ms, data):
        rounds = [ms * (1 + 0.001 * i) for i in range(8)]
        names = {"network": "n", "depth": 18, "engine": engine, "backend": "tensorrt", "batch": 1, "data": data}
        return names | {"precision": engine.split("-")[1], "median_ms": ms, "round_medians_ms": rounds}

    rows = [
        timed("tensorrt-fp32-sm90", 2.0, "host"),
        timed("tensorrt-fp32-sm90:device", 0.5, "device"),
        timed("tensorrt-int8-sm90", 1.0, "host"),
        timed("tensorrt-int8-sm90:device", 0.1, "device"),
    ]
    torch_rows = [timed("eager-fp16-gpu", 4.0, "host"), timed("eager-fp16-gpu:device", 1.0, "device")]
    ratios = baselines.against_peers([*rows, *torch_rows], [])
    assert [(item["source"], item["engine"], item["peer"]) for item in ratios] == [
        ("engine", "tensorrt-int8-sm90", "eager-fp16-gpu"),
        ("engine in place", "tensorrt-int8-sm90:device", "eager-fp16-gpu:device"),
    ]
    assert [item["ratio"] for item in ratios] == pytest.approx([0.25, 0.1])
    (curve,) = (item["curve"] for item in break_even(rows))
    assert [point["times_faster"] for point in curve] == pytest.approx([2.0])
    said = " ".join(conclusions({"results": [], "against_peers": ratios}))
    assert "engine alone without transfers, batch 1: 0.10 of its time" in said


def test_torch_compile_on_a_gpu_is_a_peer_of_its_own(tmp_path, monkeypatch):
    """Where torch sees a GPU that it can't use, as here, the peer says so."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("resnetrt.parts.importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("resnetrt.benchmarks.depth.rivals.torch_gpu", lambda: "cuda:0")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval()
    peers = list(open_peers(module, make_bundle(tmp_path / "tiny.bundle"), tmp_path / "work", 1))
    if torch.version.cuda is None:
        assert str(peers[-1]).startswith("tiny torch-compile-fp16-gpu: ")
