"""The commands in the order a user meets them, on the embedded model."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resnetrt.bundle import Bundle
from resnetrt.machine import read_cpu
from resnetrt.runtime import load
from resnetrt.runtime.cuda.device import find_devices

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ENGINES = {"onnxruntime-fp32-cpu", "onnxruntime-int8-cpu", "openvino-fp32-cpu", "openvino-int8-cpu"}
RTX = "tensorrt_rtx-fp16-portable"
BUILT = {RTX} if importlib.util.find_spec("tensorrt_rtx") and not find_devices()[0] else set()  # without its GPU


def test_quickstart_leaves_a_bundle_a_report_and_a_picture(quickstart, bundle):
    report = json.loads((quickstart / "report.json").read_text())
    rows = {row["engine"]: row for row in report["summary"]}
    assert set(rows) == ENGINES | BUILT | {"eager-fp32"}
    assert set(Bundle.open(bundle).manifest.engines) == ENGINES | BUILT
    assert report["not_run"].keys() == BUILT
    for name in BUILT:
        assert "no usable GPU" in rows[name]["not_run"]
        assert (rows[name]["own_share"], rows[name]["median_ms"]) == (1.0, None)
        assert f"built, not run here: {name} (no usable GPU" in (quickstart / "report.md").read_text()
    for name in ("report.md", "report.png", "report.svg"):
        assert (quickstart / name).stat().st_size > 1000
    for name in ENGINES:
        row = rows[name]
        assert row["n"] == 2000
        assert abs(row["drop_pp"]) < 1
        assert row["sqnr_db"] > (100 if "fp32" in name else 25)
        assert row["median_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["size_bytes"] > 0


def test_quickstart_again_replaces_its_own_bundle_only(quickstart, bundle, cli, tmp_path):
    (tmp_path / "fashion_resnet20.bundle").mkdir()
    (tmp_path / "fashion_resnet20.bundle" / "thesis.txt").write_text("mine")
    message = cli("quickstart", "--out", tmp_path).one_line(2)
    assert "expected a new path or a bundle" in message
    assert (tmp_path / "fashion_resnet20.bundle" / "thesis.txt").read_text() == "mine"


def test_stages_one_by_one(cli, tmp_path):
    bundle = tmp_path / "b.bundle"
    exported = cli("export", "fashion_resnet20", "--out", bundle, "--json").json()
    assert exported["parity"]["max_abs"] <= 1e-4
    assert exported["fold"]["max_relative_error"] <= 1e-5
    assert exported["fold"]["folded"] == 21
    assert cli("calibrate", bundle, "--data", "fashion_calib", "--samples", 64, "--json").json()["images"] == 64
    # 7 bits: this test runs the file for TensorRT on a CPU, which may have no INT8 dot product
    variants = cli("quantize", bundle, "--method", "percentile", "--reduce-range", "--json").json()["variants"]
    assert [row["variant"] for row in variants] == ["int8.cpu", "int8.onnxruntime", "int8.tensorrt"]
    for backend in ("onnxruntime", "openvino"):
        assert cli("compile", bundle, "--backend", backend, "--precision", "int8").code == 0
    compiled = cli("compile", bundle, "--backend", "openvino", "--variant", "int8.tensorrt", "--json").json()
    assert compiled["engine"] == "openvino-int8.tensorrt-cpu"
    verified = cli("verify", bundle, "--json").json()
    assert verified["reference"] == "eager-fp32"
    assert {row["verdict"] for row in verified["engines"]} == {"PASS"}
    rows = cli("evaluate", bundle, "--data", "fashion_test", "--samples", 500, "--json").json()["engines"]
    assert len(rows) == 3
    for row in rows:
        assert {"engine", "n", "fp32_top1", "top1", "drop_pp", "flips_percent", "sqnr_db"} <= set(row)
        assert row["n"] == 500
        assert abs(row["drop_pp"]) < 1.5
    again = cli("quantize", bundle, "--dialect", "cpu")
    assert "dropped engines of older variants, compile them again: openvino-int8-cpu\n" in again.out
    assert cli("quantize", bundle, "--dialect", "cpu", "--json").json()["dropped_engines"] == []
    inspected = cli("inspect", bundle)
    assert "all hashes match" in inspected.out
    assert f"weights: {Bundle.open(bundle).manifest.weights['name']}\n" in inspected.out
    same = cli("calibrate", bundle, "--data", "fashion_calib", "--samples", 64, "--json").json()
    assert same["dropped_variants"] == []
    command = ("calibrate", bundle, "--data", "fashion_calib", "--samples", 65)
    assert "variants int8.cpu, int8.onnxruntime, int8.tensorrt and engines " in cli(*command).one_line(2)
    other = cli(*command, "--overwrite")
    assert "quantize again: int8.cpu, int8.onnxruntime, int8.tensorrt\n" in other.out


def test_inspect_reads_single_files(bundle, cli, tmp_path):
    model = cli("inspect", bundle / "int8.cpu.onnx", "--json").json()
    assert (model["inputs"], model["outputs"]) == (["input float (batch, 1, 28, 28)"], ["logits float (batch, 10)"])
    assert model["operators"]["Conv"] == 21
    assert "QuantizeLinear" in cli("inspect", bundle / "int8.cpu.onnx").out
    record = cli("inspect", bundle / "calibration.safetensors", "--json").json()
    assert (record["dataset"], record["images"]) == ("fashion_calib", 256)
    assert "F32 (32, 10)" in cli("inspect", bundle / "golden.safetensors").out
    sidecar = cli("inspect", bundle / "engines" / "openvino-int8-cpu.json").out
    assert '"variant": "int8.cpu"' in sidecar
    for name, message in (("x.onnx", "expected a readable .onnx file"), ("x.bin", "a bundle or a file .onnx")):
        (tmp_path / name).write_bytes(b"noise")
        assert message in cli("inspect", tmp_path / name).one_line(2)


def test_random_weights_are_said(cli, tmp_path):
    bundle = tmp_path / "b.bundle"
    exported = cli("export", "cifar_resnet20", "--out", bundle)
    assert "warning: its weights are random; name trained ones with --weights\n" in exported.err
    assert "weights: random (seed 0)\n" in cli("inspect", bundle).out
    again = cli("export", "fashion_resnet20", "--out", bundle, "--overwrite")
    assert "random" not in again.err
    assert "weights: fashion_resnet20.safetensors\n" in cli("inspect", bundle).out


def test_tables_are_printed_for_people(bundle, cli):
    assert "PASS" in cli("verify", bundle, "--engine", "openvino-int8-cpu").out
    assert "SQNR" in cli("evaluate", bundle, "--data", "fashion_test", "--samples", 100).out


def test_verify_fails_with_exit_code_1_when_an_engine_is_wrong(bundle, cli, tmp_path):
    copy = _copy(bundle, tmp_path)
    opened = Bundle.open(copy)
    name = opened.manifest.engines["onnxruntime-int8-cpu"].file
    with opened.edit() as editor:
        blob = bytearray(opened.file(name).read_bytes())
        weights = _int8_weights(bytes(blob), "stages.1.0.conv1.conv.weight.quantized")
        start = blob.index(weights)
        for i in range(start, start + len(weights)):
            blob[i] ^= 0x80  # the sign of every weight of one layer
        editor.write(name, bytes(blob))
    result = cli("verify", copy, "--json")
    assert result.code == 1
    verdicts = {row["engine"]: row["verdict"] for row in result.json()["engines"]}
    assert verdicts["onnxruntime-int8-cpu"] == "FAIL"
    assert verdicts["openvino-int8-cpu"] == "PASS"


def test_the_runtime_needs_no_torch_for_a_bundle(bundle):
    code = (
        "import sys, numpy; from resnetrt.runtime import load\n"
        f"s = load({str(bundle)!r}, 'openvino-int8-cpu')\n"
        "out = s.infer_frames(numpy.zeros((2, 28, 28, 1), numpy.uint8))['logits']\n"
        "print(out.shape, s.selftest.sqnr_db > 20, 'torch' in sys.modules, 'onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "(2, 10) True False False"


def test_help_of_every_command_is_quick_and_complete(cli):
    from resnetrt.cli import COMMANDS

    top = cli("--help")
    for name in COMMANDS:
        assert name in top.out
        shown = cli(name, "--help")
        assert shown.code == 0
        below = shown.out.partition("Commands:")[2].split("\n")
        for words in [[name, line.split()[0]] for line in below if line.strip() and line[2] != " "] or [[name]]:
            assert "--json" in cli(*words, "--help").out, words


@pytest.mark.parametrize("reader", ["head -1", "true"])
@pytest.mark.parametrize(
    ("words", "code"),
    [("inspect {bundle} --json", 0), ("audit {bundle} --engine openvino-fp32-cpu --require int8=1", 1)],
)
def test_a_pipe_that_closes_early_changes_no_exit_code(bundle, words, code, reader):
    command = f"{sys.executable} -m resnetrt.cli {words.format(bundle=bundle)} | {reader}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.shared_data
@pytest.mark.parametrize(("depth", "published"), [(20, 81.03), pytest.param(56, 83.20, marks=pytest.mark.slow)])
def test_the_shared_cifar_networks_keep_their_accuracy(depth, published, cli, tmp_path):
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED}")
    if read_cpu().int8_dot_product is False:
        pytest.skip("8-bit weights saturate on this CPU: it has no INT8 dot product")
    bundle = tmp_path / "cifar.bundle"
    weights = SHARED / f"cifar10-resnet{depth}.safetensors"
    parity = cli("export", f"cifar_resnet{depth}", "--weights", weights, "--out", bundle, "--json").json()["parity"]
    assert parity["max_abs"] <= 1e-4
    assert cli("calibrate", bundle, "--data", SHARED / "cifar10-train-5085.npz").code == 0
    assert cli("quantize", bundle).code == 0
    assert cli("compile", bundle, "--backend", "openvino", "--precision", "int8").code == 0
    assert cli("compile", bundle, "--backend", "onnxruntime", "--precision", "int8").code == 0
    assert cli("compile", bundle, "--backend", "openvino", "--variant", "int8.tensorrt").code == 0
    data = SHARED / "cifar10-test-jpeg-4000.npz"
    rows = cli("evaluate", bundle, "--data", data, "--weights", weights, "--json").json()["engines"]
    assert len(rows) == 3
    for row in rows:
        assert row["n"] == 4000
        assert abs(row["fp32_top1"] - published) < 0.5
        assert row["drop_pp"] < 1, row


def _int8_weights(blob: bytes, name: str) -> bytes:
    import onnx

    model = onnx.load_from_string(blob)
    return next(bytes(tensor.raw_data) for tensor in model.graph.initializer if tensor.name == name)


def _copy(bundle: Path, folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(bundle, folder / "copy.bundle"))


def test_selftest_and_loading_leave_the_bundle_as_it_is(bundle):
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
    with load(bundle, "onnxruntime-int8-cpu") as session:
        session.infer(np.zeros((1, 1, 28, 28), np.float32))
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*")} == before
