"""The bundle for a device: whole or absent, a bundle like any other, and no check is weaker there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle

from resnetrt.benchmarks.accuracy.request import GateRequest
from resnetrt.benchmarks.evaluate.run import run_gate
from resnetrt.benchmarks.verify.parity import verify_bundle
from resnetrt.bundle import Bundle
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
from resnetrt.cli import run
from resnetrt.errors import BundleError, DataError, UsageError
from resnetrt.export.cast.recipes import is_current
from resnetrt.export.engines.compile import choose_variant, compile_variant
from resnetrt.export.packages import package_device
from resnetrt.golden import Golden, outputs_file
from resnetrt.runtime import load

ENGINE = "onnxruntime-int8-cpu"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny bundle with labels, a fold certificate and engines; not to be changed."""
    bundle = tiny_bundle.make_bundle(tmp_path_factory.mktemp("device") / "tiny.bundle")
    for variant in ("fp32", "int8.onnxruntime"):
        compile_variant(bundle, variant, "onnxruntime")
    with bundle.edit() as editor:
        editor.manifest.labels = [f"thing {index}" for index in range(10)]
        editor.write_json("fold.json", {"convolutions": []})
    return bundle


def on_disk(path: Path) -> dict[str, int]:
    return {str(item.relative_to(path)): item.stat().st_size for item in path.rglob("*") if item.is_file()}


def test_it_holds_what_a_device_needs_and_nothing_else(source: Bundle, tmp_path: Path):
    package = package_device(source, tmp_path / "d.bundle", ["onnxruntime"], ["int8"])
    held = Bundle.open(tmp_path / "d.bundle")
    own = outputs_file("int8.onnxruntime")
    assert set(held.manifest.files) == {
        "int8.onnxruntime.onnx", own, "outlines/int8.onnxruntime.json", "golden.safetensors", "fold.json"
    }  # fmt: skip
    assert {name: held.manifest.files[name] for name in held.manifest.files} == {
        name: source.manifest.files[name] for name in held.manifest.files
    }
    for field in ("name", "model", "input", "output", "classes", "preprocessing", "labels", "golden"):
        assert getattr(held.manifest, field) == getattr(source.manifest, field)
    assert held.manifest.weights == source.manifest.weights
    assert held.manifest.variants == {"int8.onnxruntime": source.manifest.variants["int8.onnxruntime"]}
    assert (held.manifest.engines, package.made) == ({}, ())
    assert package.sizes == on_disk(held.path)
    assert list(package.sizes.values()) == sorted(package.sizes.values(), reverse=True)
    assert package.to_json()["size_bytes"] == sum(on_disk(held.path).values())
    assert set(package.left_out) == set(source.manifest.files) - set(held.manifest.files)
    assert "fp32.onnx" in package.left_out


def test_the_place_of_the_weights_stays_here(source: Bundle, tmp_path: Path):
    shutil.copytree(source.path, tmp_path / "s.bundle")
    own = Bundle.open(tmp_path / "s.bundle")
    with own.edit() as editor:
        editor.manifest.weights = {"name": "net.pt", "sha256": "0" * 64, "path": "/home/somebody/net.pt"}
    held = package_device(own, tmp_path / "d.bundle", ["onnxruntime"], ["int8"]).bundle
    assert held.manifest.weights == {"name": "net.pt", "sha256": "0" * 64}
    assert b"somebody" not in (held.path / "manifest.json").read_bytes()


def test_the_device_compiles_and_every_check_is_as_strict(source: Bundle, tmp_path: Path):
    device = package_device(source, tmp_path / "d.bundle", ["onnxruntime"], ["int8"]).bundle
    compile_variant(device, choose_variant(device, "onnxruntime", "int8"), "onnxruntime")
    with load(device, ENGINE) as there, load(source, ENGINE) as here:
        assert there.same_file == here.same_file is not None
        assert there.selftest == here.selftest
        assert there.labels == here.labels
        frames = tiny_bundle.frames(4, seed=9)
        assert there.predict(frames) == here.predict(frames)
    reference, (verdict,) = verify_bundle(device)
    assert reference.name == "golden-outputs"
    assert reference.why
    assert verdict.problems == ()
    assert verdict.live == verdict.golden
    frames, logits = Golden.of(device).frames, Golden.of(device).logits
    with device.edit() as editor:  # eager now says something else than the engine
        editor.write("golden.safetensors", Golden(frames, np.ascontiguousarray(-logits)).to_bytes())
    assert verify_bundle(device)[1][0].problems


def test_what_compares_with_fp32_says_so(source: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    package_device(source, tmp_path / "d.bundle", ["onnxruntime"], ["int8"], [ENGINE])
    data = tmp_path / "images.npz"
    np.savez(data, x=tiny_bundle.frames(8), y=np.arange(8) % 2)
    given = ["--data", str(data)]
    commands = (["evaluate", *given], ["calibrate", *given], ["verify", *given, "--count", "8"])
    for command, *options in commands:
        assert run([command, str(tmp_path / "d.bundle"), *options]) == 2
        out, err = capfd.readouterr()
        assert not out
        assert "this needs its FP32 variant, which was not packaged" in err.splitlines()[-1]


def test_bench_without_fp32_has_times_but_no_factor(source: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    package_device(source, tmp_path / "d.bundle", ["onnxruntime"], ["int8"], [ENGINE])
    quick = ["--only-latency", "--batches", "1", "--rounds", "6", "--budget", "0.1", "--json"]
    assert run(["bench", str(tmp_path / "d.bundle"), *quick]) == 0
    (row,) = json.loads(capfd.readouterr().out)["results"]
    assert (row["engine"], row["times_faster"]) == (ENGINE, None)
    assert row["median_ms"] > 0


def test_engines_come_with_their_variant_and_files(source: Bundle, tmp_path: Path):
    device = package_device(source, tmp_path / "d.bundle", ["openvino"], ["int8"], [ENGINE]).bundle
    assert set(device.manifest.variants) == {"int8.cpu", "int8.onnxruntime"}
    beside = {name for name in source.manifest.files if name.startswith(f"engines/{ENGINE}.")}
    assert {name for name in device.manifest.files if name.startswith("engines/")} == beside
    with load(device) as session:
        assert session.selftest is not None


def test_all_that_there_is_is_the_default(source: Bundle, tmp_path: Path):
    made = package_device(source, tmp_path / "d.bundle", ["onnxruntime", "openvino"]).bundle.manifest.variants
    assert set(made) == {"fp32", "int8.onnxruntime", "int8.cpu"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backends": ["openvin"]}, "did you mean openvino"),
        ({"precisions": ["fp17"]}, "unknown precision 'fp17'"),
        ({"engines": ["openvino-int8-cpu"]}, "unknown engine"),
        ({"backends": ["onnxruntime"], "precisions": ["bf16"]}, "expected a variant at precision bf16 for onnxruntime"),
        ({"precisions": ["int8"], "input_type": "uint8"}, "expected a variant at precision int8"),
    ],
)
def test_what_is_not_there_is_refused_and_nothing_is_written(
    source: Bundle, tmp_path: Path, arguments: dict[str, object], message: str
):
    with pytest.raises(UsageError, match=message):
        package_device(source, tmp_path / "d.bundle", **arguments)
    assert not (tmp_path / "d.bundle").exists()


def test_it_never_replaces_its_source_or_something_else(source: Bundle, tmp_path: Path):
    with pytest.raises(UsageError, match="expected another place than the bundle itself"):
        package_device(source, source.path, overwrite=True)
    first = package_device(source, tmp_path / "d.bundle", ["onnxruntime"], ["int8"]).bundle
    with pytest.raises(UsageError, match="add --overwrite"):
        package_device(source, tmp_path / "d.bundle", ["onnxruntime"], ["int8"])
    package_device(source, tmp_path / "d.bundle", ["openvino"], ["int8"], overwrite=True)
    assert set(Bundle.open(first.path).manifest.variants) == {"int8.cpu"}


def test_a_disk_that_gets_full_leaves_nothing(source: Bundle, full_disk_of: Callable[[int], Path]):
    disk = full_disk_of(24 << 10)
    with pytest.raises(OSError, match="No space left"):
        package_device(source, disk / "d.bundle", ["onnxruntime"], ["int8"])
    assert list(disk.iterdir()) == []


def test_a_copy_that_is_another_file_is_refused(source: Bundle, tmp_path: Path):
    shutil.copytree(source.path, tmp_path / "s.bundle")
    bundle = Bundle.open(tmp_path / "s.bundle")
    file = bundle.variant_file("int8.onnxruntime")
    blob = bytearray(file.read_bytes())
    blob[100] ^= 1
    file.write_bytes(bytes(blob))  # after it was opened, as a disk would
    with pytest.raises(BundleError, match=r"the copy of int8.onnxruntime.onnx is another file"):
        package_device(bundle, tmp_path / "d.bundle", ["onnxruntime"], ["int8"])
    assert not (tmp_path / "d.bundle").exists()


def test_casts_are_made_first_and_stay_valid_without_the_record(fashion_bundle: Bundle, tmp_path: Path):
    quantize_variant(fashion_bundle, "tensorrt", QuantizeOptions())
    package = package_device(fashion_bundle, tmp_path / "d.bundle", ["tensorrt"], ["fp32", "fp16", "int8"])
    assert package.made == ("fp16", "int8.tensorrt.fp16")
    device = package.bundle
    assert set(device.manifest.variants) == {"fp32", "fp16", "int8.tensorrt.fp16"}
    before = on_disk(device.path)
    for precision, variant in (("fp16", "fp16"), ("int8", "int8.tensorrt.fp16")):
        assert is_current(device, precision)
        assert choose_variant(device, "tensorrt", precision) == variant
    assert on_disk(device.path) == before
    again = package_device(fashion_bundle, tmp_path / "again.bundle", ["tensorrt"], ["fp16", "int8"])
    assert again.made == ()


def test_evaluate_still_refuses_the_images_of_the_calibration(fashion_bundle: Bundle, tmp_path: Path):
    compile_variant(fashion_bundle, "fp32", "onnxruntime")
    device = package_device(fashion_bundle, tmp_path / "d.bundle", ["onnxruntime"], ["fp32"], ["onnxruntime-fp32-cpu"])
    assert "calibration.safetensors" in device.left_out
    with pytest.raises(DataError, match="expected images that calibration has not used"):
        run_gate(device.bundle, GateRequest("fashion_calib", samples=64))
    assert run_gate(device.bundle, GateRequest("fashion_test", samples=20)).record["engines"][0]["n"] == 20


def test_the_command_shows_sizes(source: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    arguments = ["package", "device", str(source.path), "--out", str(tmp_path / "d.bundle"), "--for", "onnxruntime"]
    assert run([*arguments, "--precisions", "int8", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert {row["file"]: row["size_bytes"] for row in record["files"]} == on_disk(tmp_path / "d.bundle")
    assert (record["variants"], record["engines"]) == (["int8.onnxruntime"], [])
    assert run([*arguments, "--precisions", "int8", "--overwrite"]) == 0
    out, err = capfd.readouterr()
    assert "int8.onnxruntime.onnx" in out
    assert "total" in out
    assert "left out: " in out
    assert "without fp32: evaluate and the shadow check will refuse, bench has no baseline" in err
