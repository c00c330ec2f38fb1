"""16-bit variants that take uint8 frames, and their engines: the preprocessing is inside and stays exact."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from resnetrt.bundle import Bundle
from resnetrt.calibration.quantize.bake import PIXELS
from resnetrt.calibration.quantize.quantize import QuantizeOptions, add_uint8_variant, quantize_variant
from resnetrt.cli import run
from resnetrt.errors import UsageError
from resnetrt.export.audit import Requirement, audit_engine, broken_requirements
from resnetrt.export.cast.cast import add_cast_variant
from resnetrt.export.cast.recipes import is_current
from resnetrt.export.engines.compile import choose_variant, compile_variant

PREPROCESSING = [f"preprocessing.{index}" for index in range(1, 5)]  # 0, the cast, is no arithmetic


@pytest.fixture(scope="module")
def frames(exported_fashion: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded network: FP32 and INT8 from images and from frames, and what is made from those."""
    path = tmp_path_factory.mktemp("uint8") / "fashion.bundle"
    shutil.copytree(exported_fashion, path)
    bundle = Bundle.open(path)
    for kind in ("float32", "uint8"):
        quantize_variant(bundle, "tensorrt", QuantizeOptions(input=kind))
    add_uint8_variant(bundle)
    for precision in ("fp16", "bf16", "int8"):
        for kind in ("float32", "uint8"):
            add_cast_variant(bundle, precision, kind)
    return bundle


def sqnr(bundle: Bundle, variant: str) -> float:
    return float(bundle.manifest.variants[variant].evidence["parity"]["sqnr_db"])


def types(bundle: Bundle, variant: str) -> dict[str, str]:
    graph = ir.load(str(bundle.variant_file(variant))).graph
    return {node.name or "": node.outputs[0].dtype.name for node in graph if node.outputs[0].dtype is not None}


@pytest.mark.parametrize(("precision", "onnx_type"), [("fp16", "FLOAT16"), ("bf16", "BFLOAT16")])
def test_the_preprocessing_stays_fp32_and_the_network_does_not(frames: Bundle, precision: str, onnx_type: str):
    record = frames.manifest.variants[f"{precision}.uint8"]
    assert (record.input, record.precision, record.evidence["source"]) == ("uint8", precision, "fp32.uint8")
    assert sorted(record.evidence["kept_fp32"]) == ["preprocessing.0", *PREPROCESSING]
    kinds = types(frames, f"{precision}.uint8")
    assert {kinds[name] for name in PREPROCESSING} == {"FLOAT"}
    assert {kind for name, kind in kinds.items() if "conv" in name} == {onnx_type}
    # the same roundings as from images, so the same numbers but for the last bits of the FP32 preprocessing
    assert sqnr(frames, f"{precision}.uint8") == pytest.approx(sqnr(frames, precision), abs=0.5)


def test_int8_over_fp16_keeps_the_pixels_exact(frames: Bundle):
    name = "int8.tensorrt.fp16.uint8"
    record = frames.manifest.variants[name]
    assert (record.input, record.precision, record.dialect) == ("uint8", "int8", "tensorrt")
    assert sqnr(frames, name) > sqnr(frames, "int8.tensorrt.uint8") - 2.5
    assert sqnr(frames, name) > sqnr(frames, "int8.tensorrt.fp16") - 0.5
    model = ir.load(str(frames.variant_file(name)))
    quantize = next(
        node for node in model.graph if node.op_type == "QuantizeLinear" and PIXELS in (node.inputs[0].name or "")
    )
    model.graph.outputs[:] = [quantize.outputs[0]]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    blob = ir.serde.serialize_model(model).SerializeToString()
    session = onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
    pixels = np.resize(np.arange(256, dtype=np.uint8), (1, 28, 28, 1))
    (integers,) = session.run(None, {"input": pixels})
    assert integers.dtype == np.int8
    np.testing.assert_array_equal(integers[0, 0], pixels[0, :, :, 0].astype(int) - 128)
    assert set(integers[0, 1].ravel()) == {127}  # the channel of ones


def test_the_variant_for_frames_is_chosen_and_made_anew_when_its_source_changes(frames: Bundle, tmp_path: Path):
    assert choose_variant(frames, "tensorrt", "fp16", "uint8") == "fp16.uint8"
    assert choose_variant(frames, "tensorrt_rtx", "int8", "uint8") == "int8.tensorrt.fp16.uint8"
    shutil.copytree(frames.path, tmp_path / "b.bundle")
    bundle = Bundle.open(tmp_path / "b.bundle")
    quantize_variant(bundle, "tensorrt", QuantizeOptions("minmax", input="uint8"))
    assert not is_current(bundle, "int8", "uint8")
    assert is_current(bundle, "int8")
    choose_variant(bundle, "tensorrt", "int8", "uint8")
    assert is_current(bundle, "int8", "uint8")


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        (
            "fp16",
            r"made from the variant fp32\.uint8, which it lacks.*quantize BUNDLE --dialect tensorrt --input uint8",
        ),
        ("int8", r"made from the variant int8\.tensorrt\.uint8, which it lacks.*--input uint8"),
        ("fp8", "fp8 is not made for uint8 frames; choose fp16, bf16 or int8"),
        (
            "fp32",
            "no fp32 variant for tensorrt takes uint8 frames; make one with: resnetrt quantize BUNDLE --input uint8",
        ),
    ],
)
def test_what_is_missing_is_said(fashion_bundle: Bundle, precision: str, message: str):
    with pytest.raises(UsageError, match=message):
        choose_variant(fashion_bundle, "tensorrt", precision, "uint8")


class TestEngines:
    """Really built with TensorRT-RTX."""

    @pytest.fixture(autouse=True)
    def rtx(self) -> None:
        pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'resnetrt[rtx]'")

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
    def test_an_engine_takes_frames_and_runs_as_asked(self, frames: Bundle, precision: str):
        variant = choose_variant(frames, "tensorrt_rtx", precision, "uint8")
        name = compile_variant(frames, variant, "tensorrt_rtx", "sm80,sm86,sm89,sm120")
        assert name == f"tensorrt_rtx-{precision}-sm80+sm86+sm89+sm120-uint8"
        sidecar = frames.read_json(frames.manifest.engines[name].sidecar)
        assert sidecar["inputs"] == [{"name": "input", "dtype": "uint8", "shape": [None, 28, 28, 1]}]
        assert sidecar["outputs"][0]["dtype"] == "float32"
        assert broken_requirements(audit_engine(frames, name), [Requirement(precision, 1.0)]) == []

    def test_the_command(self, frames: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        shutil.copytree(frames.path, tmp_path / "b.bundle")
        command = ["compile", str(tmp_path / "b.bundle"), "--backend", "tensorrt_rtx", "--input", "uint8", "--json"]
        assert run([*command, "--precision", "fp16", "--target", "sm75,sm86"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["engine"] == "tensorrt_rtx-fp16-sm75+sm86-uint8"
        assert record["sidecar"]["variant"] == "fp16.uint8"
        assert run([*command, "--variant", "fp32"]) == 2
        assert "--input goes with --precision" in capsys.readouterr().err
