"""The baseline from the gate's results, and the study of flipped bits, on a tiny network."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle

from resnetrt.benchmarks.accuracy.request import GateRequest
from resnetrt.benchmarks.accuracy.shadow_baseline import baseline_from_results
from resnetrt.benchmarks.evaluate.run import run_gate
from resnetrt.benchmarks.studies.shadow import main, study
from resnetrt.bundle import Bundle
from resnetrt.errors import DataError
from resnetrt.export.engines.compile import compile_variant
from resnetrt.runtime import load
from resnetrt.runtime.shadow import Baseline, ShadowOptions, baseline_chance, onnx_reference, relative_noise

FP32, INT8, IMAGES = "onnxruntime-fp32-cpu", "onnxruntime-int8-cpu", 400


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path, np.ndarray]:
    """A bundle with two engines, labelled images in a file, and the images."""
    folder = tmp_path_factory.mktemp("study")
    bundle = tiny_bundle.make_bundle(folder / "tiny.bundle")
    for variant in ("fp32", "int8.onnxruntime"):
        compile_variant(bundle, variant, "onnxruntime")
    x = tiny_bundle.frames(IMAGES, 8)
    np.savez(folder / "data.npz", x=x, y=np.arange(IMAGES) % 10)
    return bundle, folder / "data.npz", x


OPTIONS = ShadowOptions(rate=1.0)


def test_the_gates_results_give_the_baseline_of_the_same_images(made, tmp_path: Path):
    bundle, _, frames = made
    twice = np.concatenate([frames, frames[:100]])  # pixels that are the same count once
    np.savez(tmp_path / "twice.npz", x=twice, y=np.arange(len(twice)) % 10)
    run_gate(bundle, GateRequest(str(tmp_path / "twice.npz"), (INT8,), results=tmp_path / "r.safetensors"))
    baseline = baseline_from_results([tmp_path / "r.safetensors"], bundle, INT8, OPTIONS)
    images = tiny_bundle.PREPROCESSING.normalize(frames)
    with load(bundle, INT8) as session:
        out = session.infer(images)["logits"]
    ref = onnx_reference(bundle)(images)
    flips = out.argmax(1) != ref.argmax(1)
    expected = Baseline.of_samples(flips, relative_noise(ref, out), baseline_chance(0.01 / 2), "these")
    assert (baseline.n, baseline.flip_rate) == (IMAGES, expected.flip_rate)
    for mine, other in zip(baseline.noise, expected.noise, strict=True):
        assert (mine.limit, mine.rate) == (pytest.approx(other.limit, rel=1e-3), other.rate)
    with pytest.raises(DataError, match=rf"engine {FP32} .* as its file is now, found none: .* has {INT8}"):
        baseline_from_results([tmp_path / "r.safetensors"], bundle, FP32, OPTIONS)


def test_results_of_another_engine_file_are_no_baseline(made, tmp_path: Path):
    bundle, data, _ = made
    run_gate(bundle, GateRequest(str(data), (INT8,), results=tmp_path / "r.safetensors"))
    other = Bundle.open(shutil.copytree(bundle.path, tmp_path / "other.bundle"))
    with other.edit() as editor:
        blob = other.file(other.manifest.engines[FP32].file).read_bytes()
        editor.write(other.manifest.engines[INT8].file, blob)
    with pytest.raises(DataError, match=f"expected outcomes of engine {INT8} of .*other.bundle as its file is now"):
        baseline_from_results([tmp_path / "r.safetensors"], Bundle.open(other.path), INT8, OPTIONS)


def test_a_top_exponent_bit_is_always_caught_and_a_sound_engine_never(made):
    bundle, data, _ = made
    before = bundle.file(bundle.manifest.engines[FP32].file).read_bytes()
    rows = list(study(bundle, FP32, str(data), trials=4))
    faults = ["no fault", "fp32 weight, top exponent bit", "fp32 weight, any exponent bit"]
    assert [row.fault for row in rows] == [fault for fault in faults for _ in range(3)]
    assert [row.requests for row in rows[:3]] == [(None,)] * 3
    assert [row.against.baseline.n for row in rows[3:6]] == [20, IMAGES // 2, 20]
    assert all(count is not None and count < 60 for row in rows[3:6] for count in row.requests)
    assert all(cost > 3 for row in rows[3:6] for cost in row.cost_db)
    assert bundle.file(bundle.manifest.engines[FP32].file).read_bytes() == before


def test_the_command_prints_a_line_for_each_degree_and_refuses_other_engines(made, capsys: pytest.CaptureFixture[str]):
    bundle, data, _ = made
    argv = [str(bundle.path), "--data", str(data), "--trials", "2", "--engine"]
    assert main([*argv, INT8]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "no fault; beside the reference, baseline of the golden images; costs below 1 dB: 0 of 1 caught"
    assert lines[2] == "no fault; beside a copy of the engine; costs below 1 dB: 0 of 1 caught"
    assert any("int8 weight, sign bit; beside the reference, baseline of 200 images; " in line for line in lines)
    assert main([*argv, "no-such"]) == 2
