"""Files of onnxruntime.quantization and of our own against the dialects' rules; every rule fires on a planted fault."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_bundle
from onnx import helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from resnetrt.bundle import Bundle
from resnetrt.calibration.explain.lint_qdq import RULES, lint_qdq
from resnetrt.calibration.graph.dialects import DIALECTS, dialect
from resnetrt.calibration.imports.import_qdq import import_variant
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
from resnetrt.errors import CheckFailed, UsageError

TENSORRT: dict[str, Any] = {
    "activation_type": QuantType.QInt8,
    "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
}


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    return tiny_bundle.make_bundle(tmp_path / "tiny.bundle")


def by_ort(bundle: Bundle, path: Path, **options: Any) -> Path:
    """The FP32 model by ONNX Runtime's quantizer."""
    images = tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(64, seed=1))
    settings = {"quant_format": QuantFormat.QDQ, "weight_type": QuantType.QInt8, "per_channel": True} | options
    quantize_static(str(bundle.variant_file("fp32")), str(path), tiny_bundle.Reader(images), **settings)
    return path


def messages(path: Path, rules: str, severity: str = "error") -> list[str]:
    return [str(finding) for finding in lint_qdq(path, dialect(rules)) if finding.severity == severity]


@pytest.mark.parametrize("rules", DIALECTS)
def test_our_own_files_are_flawless(fashion_bundle: Bundle, rules: str, caplog: pytest.LogCaptureFixture):
    variant, _ = quantize_variant(fashion_bundle, rules, QuantizeOptions())
    assert lint_qdq(fashion_bundle.variant_file(variant), dialect(rules)) == []
    assert caplog.messages == []  # onnx_ir calls every node invalid that is read without its graph


def test_ort_by_default_is_wrong_for_tensorrt(tiny: Bundle, tmp_path: Path):
    path = by_ort(tiny, tmp_path / "ort.onnx", activation_type=QuantType.QUInt8)
    lint = messages(path, "tensorrt")
    assert any("is uint8 with zero point" in line and "tensorrt takes int8 with 0" in line for line in lint)
    assert any(line.startswith("conv: its bias is quantized; tensorrt takes float biases") for line in lint)
    assert messages(path, "onnxruntime") == []
    before = set(tiny.manifest.variants)
    with pytest.raises(
        CheckFailed, match=r"ort\.onnx breaks \d+ rules of dialect tensorrt: .*; quantize it for this ta"
    ):
        import_variant(tiny, path, "tensorrt")
    assert set(Bundle.open(tiny.path).manifest.variants) == before


def test_ort_told_what_tensorrt_wants(tiny: Bundle, tmp_path: Path):
    path = by_ort(tiny, tmp_path / "ort.onnx", **TENSORRT)
    assert messages(path, "tensorrt") == []
    assert any(
        "main branch" in line and "keeps tensorrt from fusing" in line for line in messages(path, "tensorrt", "warning")
    )
    variant, parity, findings = import_variant(tiny, path, "tensorrt")
    assert variant == "int8.tensorrt.imported"
    assert parity.sqnr_db > 20
    record = Bundle.open(tiny.path).manifest.variants[variant]
    assert (record.dialect, record.precision, record.evidence["imported"]) == ("tensorrt", "int8", "ort.onnx")
    assert record.evidence["producer"].startswith("onnx")
    assert record.evidence["warnings"] == [finding.to_json() for finding in findings]


def test_types_without_zero_points(tiny: Bundle, tmp_path: Path):
    """Since opset 21 a quantizer may have none; `output_dtype` then says its type, and without that it is uint8."""
    model = onnx.load(by_ort(tiny, tmp_path / "ort.onnx", **TENSORRT))
    model.opset_import[0].version = 21
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            del node.input[2]
    for node in quantizers:
        node.attribute.append(helper.make_attribute("output_dtype", onnx.TensorProto.INT8))
    onnx.save(model, tmp_path / "bare.onnx")
    assert messages(tmp_path / "bare.onnx", "tensorrt") == []
    del quantizers[0].attribute[-1]
    onnx.save(model, tmp_path / "bare.onnx")
    (line,) = messages(tmp_path / "bare.onnx", "tensorrt")
    assert "input is uint8 with zero point 0; tensorrt takes int8 with 0" in line


def keep_batch_norm(bundle: Bundle) -> None:
    """Put a BatchNorm that changes nothing in front of the classifier of fp32.onnx."""
    model = onnx.load(bundle.variant_file("fp32"))
    for name, value in (("one", 1.0), ("zero", 0.0)):
        array = np.full(tiny_bundle.CHANNELS, value, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    last = model.graph.node.pop()
    last.input[0] = "bn"
    inputs = ["f", "one", "zero", "zero", "one"]
    model.graph.node.extend([helper.make_node("BatchNormalization", inputs, ["bn"], "bn", epsilon=1e-7), last])
    with bundle.edit() as editor:
        editor.write("fp32.onnx", model.SerializeToString())


def test_a_batch_norm_that_the_export_kept_is_no_fault(tiny: Bundle, tmp_path: Path):
    keep_batch_norm(tiny)
    variant, _, _ = import_variant(tiny, by_ort(tiny, tmp_path / "ort.onnx", **TENSORRT), "tensorrt")
    nodes = onnx.load(tiny.variant_file(variant)).graph.node
    assert sum(node.op_type == "BatchNormalization" for node in nodes) == 1


def test_symmetric_activations_are_slow_on_a_cpu(tiny: Bundle, tmp_path: Path):
    path = by_ort(tiny, tmp_path / "ort.onnx", **TENSORRT)
    assert messages(path, "onnxruntime") == []
    assert any("which CPUs run no faster than floats" in line for line in messages(path, "onnxruntime", "warning"))


def test_one_scale_for_all_weights(tiny: Bundle, tmp_path: Path):
    path = by_ort(tiny, tmp_path / "ort.onnx", per_channel=False, **TENSORRT)
    lint = messages(path, "tensorrt", "warning")
    assert "conv: one scale for all of its weights; a scale per output channel is more exact" in lint


def planted(bundle: Bundle, path: Path, change: Callable[[onnx.ModelProto], None], **options: Any) -> Path:
    model = onnx.load(by_ort(bundle, path, **options))
    change(model)
    onnx.save(model, path)
    return path


def producer(model: onnx.ModelProto, layer: str, index: int) -> onnx.NodeProto:
    name = next(node for node in model.graph.node if node.name == layer).input[index]
    return next(node for node in model.graph.node if name in node.output)


def set_constant(model: onnx.ModelProto, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(edit(onnx.numpy_helper.to_array(tensor)), name))


def wrong_axis(model: onnx.ModelProto) -> None:
    node = producer(model, "conv", 1)
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", 1))


def weight_zero_points(model: onnx.ModelProto) -> None:
    set_constant(model, producer(model, "conv", 1).input[2], lambda zero: np.full_like(zero, 3))


def negative_weight_scale(model: onnx.ModelProto) -> None:
    set_constant(model, producer(model, "conv", 1).input[1], lambda scale: -scale)


def infinite_scale(model: onnx.ModelProto) -> None:
    set_constant(model, producer(model, "conv", 0).input[1], lambda scale: np.full_like(scale, np.inf))


def float_input(model: onnx.ModelProto) -> None:
    dequantize = producer(model, "conv", 0)
    quantize = next(node for node in model.graph.node if dequantize.input[0] in node.output)
    next(node for node in model.graph.node if node.name == "conv").input[0] = quantize.input[0]


def float_shortcut(model: onnx.ModelProto) -> None:
    add = next(node for node in model.graph.node if node.name == "add")
    dequantize = producer(model, "add", 1)
    add.input[1] = next(node for node in model.graph.node if dequantize.input[0] in node.output).input[0]


def wrong_bias_scale(model: onnx.ModelProto) -> None:
    set_constant(model, producer(model, "conv", 2).input[1], lambda scale: scale * 2)


@pytest.mark.parametrize(
    ("fault", "rules", "severity", "message"),
    [
        (
            wrong_axis,
            "tensorrt",
            "error",
            r"conv: its weights \(.*\) have \d+ scales along axis 1, expected \d+ along axis 0",
        ),
        (weight_zero_points, "tensorrt", "error", "conv: its weights are int8, expected int8 with zero points 0"),
        (weight_zero_points, "onnxruntime", "warning", "conv: its weights are int8, expected int8 with zero points 0"),
        (negative_weight_scale, "tensorrt", "error", "conv: a scale of its weights is not a positive number"),
        (infinite_scale, "tensorrt", "error", "the scale of r is inf, not a positive float32"),
        (float_input, "tensorrt", "warning", "conv: its input is a float, so it runs as a float layer"),
        (float_shortcut, "tensorrt", "warning", "add: its shortcut r is a float, so the add is not fused"),
    ],
)
def test_planted_faults(tiny: Bundle, tmp_path: Path, fault: Any, rules: str, severity: str, message: str):
    path = planted(tiny, tmp_path / "bad.onnx", fault, **TENSORRT)
    lint = messages(path, rules, severity)
    assert any(re.search(message, line) for line in lint), lint


def test_a_wrong_scale_of_a_bias(tiny: Bundle, tmp_path: Path):
    path = planted(tiny, tmp_path / "bad.onnx", wrong_bias_scale, activation_type=QuantType.QUInt8)
    expected = "conv: the scale of its bias is not that of its input times that of its weights"
    assert messages(path, "onnxruntime") == [expected]


def test_every_rule_is_tested():
    assert [rule.__name__ for rule in RULES] == ["activations", "weights", "biases", "inputs", "residuals"]


def test_lawful_but_broken_is_caught_by_parity(tiny: Bundle, tmp_path: Path):
    def shrink(model: onnx.ModelProto) -> None:
        set_constant(model, producer(model, "conv", 0).input[1], lambda scale: scale / 40)

    path = planted(tiny, tmp_path / "bad.onnx", shrink, **TENSORRT)
    assert messages(path, "tensorrt") == []
    with pytest.raises(CheckFailed, match=r"variant int8\.tensorrt\.imported: parity .*Suspicious: .*conv: its own"):
        import_variant(tiny, path, "tensorrt")
    assert "int8.tensorrt.imported" not in Bundle.open(tiny.path).manifest.variants


def test_files_that_are_no_quantized_network(tiny: Bundle, tmp_path: Path):
    with pytest.raises(CheckFailed, match="expected QuantizeLinear/DequantizeLinear pairs, found a float model"):
        import_variant(tiny, tiny.variant_file("fp32"), "tensorrt")
    path = by_ort(tiny, tmp_path / "ops.onnx", quant_format=QuantFormat.QOperator)
    with pytest.raises(CheckFailed, match=r"found the integer operators .*QLinearConv.*; export it as Q/DQ"):
        import_variant(tiny, path, "onnxruntime")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(UsageError, match=r"--import .*text\.onnx: expected an ONNX file, found something else"):
        import_variant(tiny, tmp_path / "text.onnx", "tensorrt")
    with pytest.raises(UsageError, match="expected an ONNX file, found nothing there"):
        import_variant(tiny, tmp_path / "gone.onnx", "tensorrt")


def test_a_file_with_another_interface(tiny: Bundle, tmp_path: Path):
    def rename(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = "x"

    def reshape(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 99

    for change, message in ((rename, "expected one input input, found x"), (reshape, r"expected float32 \(N, .*99")):
        with pytest.raises(UsageError, match=message):
            import_variant(tiny, planted(tiny, tmp_path / "bad.onnx", change, **TENSORRT), "tensorrt")
