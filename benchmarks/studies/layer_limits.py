"""What limits an INT8 engine of OpenVINO: each layer in its network, compared with the same layer alone.

python -m resnetrt.benchmarks.studies.layer_limits BUNDLE [--engine ID] [--batch 1] [--json]

"Alone" repeats the same call, so the weights stay in the cache next to the cores. "Alone with caches emptied" copies 32
MB between two calls, so weights and inputs come from further away, as in a network larger than that cache. Both are
compared with a matrix product of the same size, and with the peak of matrix products.
"""

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetrt.benchmarks.measure.noise import watch
from resnetrt.benchmarks.measure.peaks import measure_peaks
from resnetrt.benchmarks.verify.reference import rebuild_eager
from resnetrt.bundle import Bundle
from resnetrt.conditions import conditions
from resnetrt.errors import ResnetrtError, UsageError
from resnetrt.golden import Golden
from resnetrt.preprocess import FloatArray
from resnetrt.runtime import load
from resnetrt.runtime.backends.openvino import properties, shared_core
from resnetrt.runtime.load import check_threads

if TYPE_CHECKING:
    from torch import nn

_RUNS, _EMPTY_BYTES, _OPSET = 40, 32 << 20, 20


@dataclass(frozen=True)
class ConvShape:
    """A convolution without groups: channels in and out, size of its input, kernel and stride, all square."""

    inputs: int
    outputs: int
    size: int
    kernel: int
    stride: int

    @property
    def weight_bytes(self) -> int:
        """The size of the int8 weights."""
        return self.inputs * self.outputs * self.kernel**2

    def rows(self, batch: int) -> int:
        """Output pixels of a batch: the rows of the matrix product it amounts to."""
        return int(batch * (-(-self.size // self.stride)) ** 2)

    def operations(self, batch: int) -> int:
        """Operations: two per multiply-accumulate."""
        return 2 * self.rows(batch) * self.weight_bytes


def conv_shapes(module: "nn.Module", input_shape: tuple[int, int, int]) -> dict[str, ConvShape]:
    """The square, ungrouped convolutions of `module` by name, found on the meta device: nothing is computed."""
    import torch
    from torch import nn

    shapes: dict[str, ConvShape] = {}

    def note(name: str) -> Callable[[nn.Conv2d, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def hook(layer: nn.Conv2d, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
            size, kernel, stride = inputs[0].shape[-1], layer.kernel_size[0], layer.stride[0]
            if layer.groups == 1 and layer.padding == (kernel // 2,) * 2:
                shapes[name] = ConvShape(layer.in_channels, layer.out_channels, size, kernel, stride)

        return hook

    shadow = copy.deepcopy(module).to("meta").eval()
    for name, layer in shadow.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(note(name))
    with torch.no_grad():
        shadow(torch.empty(1, *input_shape, device="meta"))
    return shapes


def measure_layers(bundle: Bundle, engine: str | None, batch: int = 1, threads: int | None = None) -> dict[str, Any]:
    """`layers[]`: microseconds of each convolution in the network, alone, with caches emptied, and as a product.

    Raises `UsageError` for an engine that is not INT8 in OpenVINO, or a network that can't be rebuilt.
    """
    name, count = bundle.select_engine(engine), check_threads(threads)
    record = bundle.read_engine(name)
    if (record.backend, record.precision) != ("openvino", "int8"):
        raise UsageError(f"engine {name}: expected one of OpenVINO in INT8, found another; its layers are not known")
    shapes = conv_shapes(rebuild_eager(bundle, None), bundle.manifest.input.shape)
    frames = Golden.of(bundle).frames
    with watch() as noise:
        peak = measure_peaks(["openvino"], ["int8"], count)
        with load(bundle, name, threads=count) as session:
            images = session.prepare(np.ascontiguousarray(frames[np.arange(batch) % len(frames)]))
            layers = session.profile(images, runs=_RUNS)
        alone = {shape: measure_alone(shape, batch, count) for shape in dict.fromkeys(shapes.values())}
    rows = []
    for layer in layers:
        module = layer.name.partition("/")[0]
        if layer.op == "Convolution" and module in shapes:
            shape = shapes[module]
            rows.append({"layer": module, "in_network_us": 1e3 * layer.ms, **alone[shape], **asdict(shape)})
    total_us = 1e3 * sum(layer.ms for layer in layers)
    head = {"network": bundle.manifest.name, "engine": name, "batch": batch, "threads": count, "layers_us": total_us}
    limits = {"peak_gops": peak["best"]["int8"], "copy_gb_s": peak["copy_gb_s"]}
    return head | limits | {"layers": rows, "noise": noise.to_json()}


def measure_alone(shape: ConvShape, batch: int, threads: int) -> dict[str, float]:
    """Microseconds of the convolution alone, with caches emptied, and as a matrix product; and the operations."""
    with tempfile.TemporaryDirectory(prefix="resnetrt-layer-") as folder:
        path = Path(folder) / "layer.onnx"
        image = _write(path, shape, batch, product=False)
        times = {"alone_us": _time(path, image, threads), "emptied_us": _time(path, image, threads, empty=True)}
        rows = _write(path, shape, batch, product=True)
        times["product_us"] = _time(path, rows, threads)
    return times | {"operations": shape.operations(batch), "weight_bytes": shape.weight_bytes}


def _time(path: Path, x: FloatArray, threads: int, empty: bool = False) -> float:
    """Mean microseconds of the layer by OpenVINO's own report, without conversions at the ends of the network."""
    settings = properties("int8", threads) | {"PERF_COUNT": True}
    request: Any = shared_core().compile_model(path, "CPU", settings).create_infer_request()
    source, target = np.ones(_EMPTY_BYTES, np.uint8), np.zeros(_EMPTY_BYTES, np.uint8)
    for _ in range(_RUNS):
        request.infer({0: x}, share_inputs=True)
        if empty:
            np.copyto(target, source)
    kinds = ("Convolution", "FullyConnected", "MatMul")
    nodes = request.profiling_info
    times = [float(node.real_time.total_seconds()) for node in nodes if node.node_type in kinds]
    return 1e6 * max(times)


def _write(path: Path, shape: ConvShape, batch: int, product: bool) -> FloatArray:
    """Write the layer with uint8 input and output and int8 weights as ONNX; returns an input for it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights: tuple[int, ...]
    if product:
        x = rng.random((shape.rows(batch), shape.weight_bytes // shape.outputs), np.float32)
        weights, axis = (x.shape[1], shape.outputs), 1
        node = helper.make_node("MatMul", ["d", "dw"], ["c"])
    else:
        x = rng.random((batch, shape.inputs, shape.size, shape.size), np.float32)
        weights, axis = (shape.outputs, shape.inputs, shape.kernel, shape.kernel), 0
        pads, strides = [shape.kernel // 2] * 4, [shape.stride] * 2
        node = helper.make_node("Conv", ["d", "dw"], ["c"], pads=pads, strides=strides)
    arrays = {
        "s": np.float32(1 / 255),
        "z": np.uint8(0),
        "w": rng.integers(-127, 128, weights).astype(np.int8),
        "ws": np.full(shape.outputs, 0.001, np.float32),
        "wz": np.zeros(shape.outputs, np.int8),
        "t": np.float32(0.1),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], axis=axis),
        node,
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "t", "z"], ["o"]),
        helper.make_node("DequantizeLinear", ["o", "t", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10), path)
    return x


def main(arguments: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m resnetrt.benchmarks.studies.layer_limits", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true", dest="as_json")
    given = parser.parse_args(arguments)
    try:
        record = measure_layers(Bundle.open(given.bundle), given.engine, given.batch, given.threads)
    except ResnetrtError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    text = json.dumps({"conditions": conditions(), **record}, indent=2) if given.as_json else "\n".join(_lines(record))
    sys.stdout.write(text + "\n")
    return 0


def _lines(record: dict[str, Any]) -> list[str]:
    """A line for each layer, and the sums."""
    layers, times = record["layers"], ("in_network_us", "alone_us", "emptied_us", "product_us")
    lines = [f"{record['network']} {record['engine']}, batch {record['batch']}", f"us: {', '.join(times)}; GOPS"]
    for row in layers:
        gops = row["operations"] / row["in_network_us"] / 1e3
        size = f"{row['inputs']}x{row['kernel']}x{row['kernel']} to {row['outputs']} at {row['size']}/{row['stride']}"
        numbers = " ".join(f"{row[name]:7.0f}" for name in times)
        lines.append(f"{row['layer']:28} {size:28} {row['weight_bytes'] / 1e6:6.2f} MB {numbers} {gops:6.0f} GOPS")
    own = sum(row["in_network_us"] for row in layers)
    bare = sum(min(row["alone_us"], row["product_us"]) for row in layers)
    at_peak = sum(row["operations"] for row in layers) / record["peak_gops"] / 1e3
    lines.append(
        f"convolutions: {own / 1e3:.2f} ms in the network, {bare / 1e3:.2f} ms bare (alone or as products, the "
        f"faster), {at_peak / 1e3:.2f} ms at the peak of {record['peak_gops']:.0f} GOPS; all layers "
        f"{record['layers_us'] / 1e3:.2f} ms"
    )
    return [*lines, *(f"DISTURBED: {reason}" for reason in record["noise"]["reasons"])]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
