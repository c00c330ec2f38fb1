"""Checks that an exported graph is what every later stage relies on."""

from pathlib import Path

import numpy as np
import onnx

from resnetrt.errors import CheckFailed

OPSET_RANGE = (9, 25)  # what TensorRT's ONNX parsers read


def lint(path: Path, kept_batch_norms: int = 0) -> None:
    """Raise `CheckFailed` naming the first thing wrong with the ONNX file at `path`.

    Checked: `onnx.checker` in full, opset, one file, no BatchNormalization beyond `kept_batch_norms`, a bias as long as
    the outputs at every convolution, a symbolic batch axis that really takes batch 1 and 3.
    """
    check_onnx(path)
    model = onnx.load(str(path), load_external_data=False)
    for check in (_opset, _single_file, _biases, _batch_axis):
        check(model, path.name)
    left = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
    if left > kept_batch_norms:
        raise CheckFailed(f"{path.name}: {left} BatchNormalization nodes left, expected {kept_batch_norms}")
    _run_batches(model, path)


def check_onnx(path: Path) -> None:
    """Raise `CheckFailed` if the file is not valid ONNX."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(f"{path.name}: onnx.checker: {str(error).splitlines()[0]}") from error


def _opset(model: onnx.ModelProto, name: str) -> None:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    low, high = OPSET_RANGE
    if not low <= opset <= high:
        raise CheckFailed(f"{name}: opset {opset} is outside TensorRT's {low} to {high}; choose another --opset")


def _single_file(model: onnx.ModelProto, name: str) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise CheckFailed(f"{name}: initializer {tensor.name} lies in another file; expected a single file")


def _biases(model: onnx.ModelProto, name: str) -> None:
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[1] not in shapes:
            continue
        outputs = shapes[node.input[1]][0]
        bias = shapes.get(node.input[2]) if len(node.input) > 2 else None
        if bias != [outputs]:
            raise CheckFailed(f"{name}: convolution {node.name} has {outputs} outputs and a bias of shape {bias}")


def _batch_axis(model: onnx.ModelProto, name: str) -> None:
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims:
            raise CheckFailed(f"{name}: {value.name} has no batch axis, expected a symbol as its first axis")
        if not dims[0].dim_param:
            raise CheckFailed(
                f"{name}: the batch axis of {value.name} is fixed to {dims[0].dim_value}, expected a symbol"
            )


def _run_batches(model: onnx.ModelProto, path: Path) -> None:
    """A symbol alone proves nothing: a Reshape can still hold a constant batch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CheckFailed(f"{path.name}: ONNX Runtime can't load it: {str(error).splitlines()[0]}") from error
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    for batch in (1, 3):
        feed = {model.graph.input[0].name: np.zeros((batch, *shape), np.float32)}
        try:
            output = session.run(None, feed)[0]
        except Exception as error:
            raise CheckFailed(f"{path.name}: batch {batch} does not run: {str(error).splitlines()[0]}") from error
        if len(output) != batch:
            raise CheckFailed(f"{path.name}: batch {batch} gave {len(output)} outputs; the batch axis is not dynamic")
