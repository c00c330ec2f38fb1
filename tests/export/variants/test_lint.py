"""Every guard of the lint is seen failing on a fault planted for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resnetrt.errors import CheckFailed
from resnetrt.export.variants.lint import lint

OPSET = 20


def initializer(name: str, array: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(array, name)


def network(*extra: onnx.NodeProto, **changes: object) -> onnx.ModelProto:
    """conv, relu, global pool, flatten; `extra` nodes go between flatten (`flat`) and the output."""
    weight = np.ones((4, 3, 3, 3), np.float32)
    arrays = {"w": weight, "b": np.zeros(4, np.float32), **changes.get("arrays", {})}
    nodes = [
        helper.make_node("Conv", changes.get("conv", ["input", "w", "b"]), ["conv"], "conv"),
        helper.make_node("Relu", ["conv"], ["relu"], "relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat" if extra else "logits"], "flatten"),
        *extra,
    ]
    shapes = [changes.get("input", ["batch", 3, 8, 8]), changes.get("output", ["batch", 4])]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shapes[0])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shapes[1])],
        [initializer(name, array) for name, array in arrays.items() if array is not None],
    )
    opsets = [helper.make_opsetid("", changes.get("opset", OPSET)), *changes.get("opsets", [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=changes.get("ir_version", 9))


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., None]:
    def save_and_lint(model: onnx.ModelProto, **options: object) -> None:
        onnx.save(model, tmp_path / "net.onnx")
        lint(tmp_path / "net.onnx", **options)

    return save_and_lint


Check = Callable[..., None]


def batch_norm(name: str = "bn", source: str = "flat", target: str = "logits") -> onnx.NodeProto:
    return helper.make_node("BatchNormalization", [source, "one", "zero", "zero", "one"], [target], name)


STATISTICS = {"one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32)}


def test_a_good_file_passes(check: Check):
    check(network())


def test_constant_batch_in_a_reshape(check: Check):
    """It passes the checker and runs at the exporter's own batch size."""
    reshape = helper.make_node("Reshape", ["flat", "shape"], ["logits"], "reshape")
    with pytest.raises(CheckFailed, match=r"net\.onnx: batch 3 gave 1 outputs; the batch axis is not dynamic"):
        check(network(reshape, arrays={"shape": np.array([1, -1])}, output=["batch", "features"]))
    with pytest.raises(CheckFailed, match=r"net\.onnx: batch 3 does not run: .*Reshape"):
        check(network(reshape, arrays={"shape": np.array([1, 4])}, output=["batch", "features"]))
    with pytest.raises(CheckFailed, match=r"net\.onnx: batch 1 does not run: .*Reshape"):
        check(network(reshape, arrays={"shape": np.array([3, 4])}, output=["batch", "features"]))
    check(network(reshape, arrays={"shape": np.array([-1, 4])}))


def test_missing_bias(check: Check):
    with pytest.raises(CheckFailed, match="convolution conv has 4 outputs and a bias of shape None"):
        check(network(conv=["input", "w"]))


def test_bias_of_the_wrong_length(check: Check):
    with pytest.raises(CheckFailed, match=r"convolution conv has 4 outputs and a bias of shape \[3\]"):
        check(network(arrays={"b": np.zeros(3, np.float32)}))


def test_bias_that_is_computed(check: Check):
    model = network(arrays={"b": None, "c": np.zeros(4, np.float32)})
    model.graph.node.insert(0, helper.make_node("Identity", ["c"], ["b"], "copy"))
    with pytest.raises(CheckFailed, match="convolution conv has 4 outputs and a bias of shape None"):
        check(model)


def test_batch_norm_left(check: Check):
    model = network(batch_norm(), arrays=STATISTICS)
    with pytest.raises(CheckFailed, match="1 BatchNormalization nodes left, expected 0"):
        check(model)
    check(model, kept_batch_norms=1)


def test_one_batch_norm_more_than_was_kept(check: Check):
    model = network(batch_norm("a", "flat", "x"), batch_norm("b", "x", "logits"), arrays=STATISTICS)
    with pytest.raises(CheckFailed, match="2 BatchNormalization nodes left, expected 1"):
        check(model, kept_batch_norms=1)


@pytest.mark.parametrize("opset", [8, 26])
def test_opset_that_tensorrt_does_not_read(check: Check, opset: int):
    with pytest.raises(CheckFailed, match=rf"opset {opset} is outside TensorRT's 9 to 25; choose another --opset"):
        check(network(opset=opset, ir_version=8 if opset == 8 else 13))


def test_fixed_batch(check: Check):
    with pytest.raises(CheckFailed, match="batch axis of input is fixed to 2, expected a symbol"):
        check(network(input=[2, 3, 8, 8], output=[2, 4]))


def test_fixed_batch_of_the_output_alone(check: Check):
    with pytest.raises(CheckFailed, match=r"net\.onnx: .*(batch axis of logits is fixed to 2|[Ss]hape)"):
        check(network(output=[2, 4]))


def test_output_without_axes(check: Check):
    mean = helper.make_node("ReduceMean", ["flat"], ["logits"], "mean", keepdims=0)
    with pytest.raises(CheckFailed, match="logits has no batch axis, expected a symbol as its first axis"):
        check(network(mean, output=[]))


def test_weights_in_another_file(tmp_path: Path):
    path = tmp_path / "net.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="net.data", size_threshold=0)
    with pytest.raises(CheckFailed, match=r"net\.onnx: initializer w lies in another file; expected a single file"):
        lint(path)
    (tmp_path / "net.data").unlink()
    with pytest.raises(CheckFailed, match=r"net\.onnx: onnx\.checker: .*net\.data"):
        lint(path)


@pytest.mark.parametrize("blob", [b"", b"not a protobuf", b"\x08\x09\x12"])
def test_a_file_that_is_no_onnx(tmp_path: Path, blob: bytes):
    (tmp_path / "net.onnx").write_bytes(blob)
    with pytest.raises(CheckFailed, match=r"net\.onnx: onnx\.checker: "):
        lint(tmp_path / "net.onnx")


def test_a_truncated_file(tmp_path: Path):
    (tmp_path / "net.onnx").write_bytes(network().SerializeToString()[:-40])
    with pytest.raises(CheckFailed, match=r"net\.onnx: onnx\.checker: "):
        lint(tmp_path / "net.onnx")


def test_checker_finds_an_unknown_operator(check: Check):
    with pytest.raises(CheckFailed, match=r"net\.onnx: onnx\.checker: .*NoSuchOp"):
        check(network(helper.make_node("NoSuchOp", ["flat"], ["logits"], "x")))


def test_checker_finds_shapes_that_do_not_fit(check: Check):
    with pytest.raises(CheckFailed, match=r"net\.onnx: onnx\.checker: "):
        check(network(helper.make_node("MatMul", ["flat", "m"], ["logits"], "fc"), arrays={"m": np.ones((5, 4), "f4")}))


def test_an_operator_that_the_runtime_does_not_have(check: Check, capfd: pytest.CaptureFixture[str]):
    """The checker knows nothing of other domains."""
    node = helper.make_node("Mystery", ["flat"], ["logits"], "x", domain="com.example")
    with pytest.raises(CheckFailed, match=r"net\.onnx: ONNX Runtime can't load it: .*Mystery"):
        check(network(node, opsets=[helper.make_opsetid("com.example", 1)]))
    assert capfd.readouterr() == ("", "")
