"""The FP32 network with statistics inside the graph: the outputs are small, however large the activations are.

For each watched value: each channel's maximum, mean and, unless a ReLU made the value, minimum; and a share of the
elements for a histogram. Values of one shape are returned together, in a few arrays.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from resnetrt.calibration.graph.structure import watched_values, weighted_layers
from resnetrt.errors import BundleError, DataError
from resnetrt.export.variants.nodes import add_constant, named_node
from resnetrt.preprocess import FloatArray
from resnetrt.settings import read_settings

MOST_VALUES = 1 << 18  # elements of a tensor, over all images, that are counted; at least one per channel and image
_MOST_AXES = 3  # axes after the channels that ONNX Runtime's pools and convolutions accept
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Measured:
    """One batch of `n` images and `k` tensors of `C` channels: float32 `(n, k, C)`, and `values` `(n, k, C, counted)`.

    If a ReLU made the tensor, `low` may be any of its values: none is negative, and its ranges begin at zero anyway.
    """

    low: FloatArray
    high: FloatArray
    mean: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class Group:
    """Tensors of one shape: `channels`, and the `pixels` of each; None if unknown.

    `outputs` names the array of each statistic. Tensors of few values are counted whole, and their statistics taken of
    that.
    """

    names: tuple[str, ...]
    channels: int | None
    pixels: int | None
    outputs: dict[str, str]

    def split(self, results: dict[str, FloatArray]) -> Measured:
        """What the graph's outputs say of this group. Raises `BundleError` if the file says other channels."""
        arrays = {what: results[name] for what, name in self.outputs.items()}
        count, width = arrays["values"].shape[:2]
        shape = (count, len(self.names), width // len(self.names))
        if self.channels not in (None, shape[2]):
            text = f"tensor {self.names[0]} has {shape[2]} channels where its file says {self.channels}"
            raise BundleError(f"calibration: {text}; export the model again")
        values = arrays.pop("values").reshape(*shape, -1)
        if not arrays:
            return Measured(values.min(3), values.max(3), values.mean(3), values)
        taken = {what: array.reshape(shape) for what, array in arrays.items()}
        return Measured(taken.get("low", values[..., 0]), taken["high"], taken["mean"], values)


class Probe:
    """The network at `path`, instrumented for `images` images; `run` may be called by `workers` threads at once.

    Each batch uses one core and no thread pool: spinning threads would take cores from the threads that count.
    Raises `DataError` for weights that are not finite, naming the first tensor that they spoil.
    """

    def __init__(self, path: Path, images: int) -> None:
        proto = _load(path)
        self.path = path
        self.graph = ir.serde.deserialize_model(proto).graph
        _check_weights(self.graph)
        self.watched = watched_values(self.graph)
        self.workers = read_settings().threads
        model = ir.serde.deserialize_model(proto)
        own = [output.name or "" for output in model.graph.outputs]
        self.groups = _instrument(model.graph, -(-MOST_VALUES // images))
        optimized = _optimized(ir.serde.serialize_model(model), own)
        self._session = _session(optimized.SerializeToString())
        self._input = self._session.get_inputs()[0].name
        self._names = [output.name for output in self._session.get_outputs()]
        self._own = own

    def run(self, images: FloatArray) -> list[Measured]:
        """What one batch shows of each group. Raises `DataError` naming the first tensor that is not finite."""
        results = dict(zip(self._names, self._session.run(self._names, {self._input: images}), strict=True))
        measurements = [group.split(results) for group in self.groups]
        bad = {name for name in self._own if not np.isfinite(results[name]).all()}
        for group, measured in zip(self.groups, measurements, strict=True):
            total = measured.low + measured.high + measured.mean  # extremes may hide NaN, means do not
            finite = np.isfinite(total).all(axis=(0, 2))
            bad.update(name for name, good in zip(group.names, finite, strict=True) if not good)
        for value in (*self.graph.inputs, *(output for node in self.graph for output in node.outputs)):
            if value.name in bad:
                raise _not_finite(value.name)
        return measurements


def _load(path: Path) -> onnx.ModelProto:
    """The model with the shapes of all its values."""
    model = onnx.load(str(path))
    known = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    if all(name in known for node in model.graph.node for name in node.output):
        return model
    return onnx.shape_inference.infer_shapes(model)


def _check_weights(graph: ir.Graph) -> None:
    for layer in weighted_layers(graph):
        for value in layer.inputs[1:]:
            array = None if value is None or value.const_value is None else value.const_value.numpy()
            if array is not None and not np.isfinite(array).all():
                raise _not_finite(layer.outputs[0].name)


def _not_finite(name: str | None) -> DataError:
    return DataError(f"calibration: tensor {name} has NaN or infinite values; check the weights and images")


def _instrument(graph: ir.Graph, most: int) -> list[Group]:
    """Add the statistics of the watched values to the graph; about `most` values of a tensor and image are counted."""
    alike: dict[tuple[str, ...], list[ir.Value]] = {}
    for value in watched_values(graph):
        if value.shape is None:
            text = f"calibration: the number of axes of tensor {value.name} is unknown; export the model again"
            raise BundleError(text)
        sizes, batch = _sizes(value), value.shape[0] if len(value.shape) else None
        kind = (str(batch), *map(str, sizes)) if sizes else (value.name or "",)
        alike.setdefault((_origin(value), *kind), []).append(value)
    return [_add_group(graph, f"calibration/{i}", values, most) for i, values in enumerate(alike.values())]


def _add_group(graph: ir.Graph, prefix: str, values: list[ir.Value], most: int) -> Group:
    """Uses pools and depthwise convolutions, which ONNX Runtime runs in the blocked layout of its convolutions."""
    sizes = _sizes(values[0])
    names = tuple(value.name or "" for value in values)
    if len(sizes) > 1 + _MOST_AXES:
        rows = add_constant(graph, f"{prefix}/rows", np.array([0, sizes[0], -1]))
        values = [_add(graph, "Reshape", [value, rows], {}, f"{value.name}/rows") for value in values]
        sizes = [sizes[0], math.prod(sizes[1:])]
    taken: dict[str, list[ir.Value]] = {"values": values}
    if len(sizes) > 1 and math.prod(sizes) > most:
        strides = _strides(sizes[1:], most // sizes[0])
        picker = add_constant(graph, f"{prefix}/picker", _picker(sizes[0], strides))
        axes = add_constant(graph, f"{prefix}/axes", np.arange(2, 1 + len(sizes)))
        own = {"group": sizes[0], "strides": strides}
        taken["values"] = [_add(graph, "Conv", [value, picker], own, f"{value.name}/values") for value in values]
        taken["high"] = [_add(graph, "GlobalMaxPool", [value], {}, f"{value.name}/high") for value in values]
        taken["mean"] = [_add(graph, "GlobalAveragePool", [value], {}, f"{value.name}/mean") for value in values]
        if _origin(values[0]) != "Relu":
            taken["low"] = [_add(graph, "ReduceMin", [value, axes], {}, f"{value.name}/low") for value in values]
    outputs = {what: f"{prefix}/{what}" for what in taken}
    for what, parts in taken.items():
        graph.outputs.append(_add(graph, "Concat", parts, {"axis": 1}, outputs[what]))
    return Group(names, sizes[0] if sizes else None, math.prod(sizes[1:]) if sizes else None, outputs)


def _sizes(value: ir.Value) -> list[int]:
    """Channels and what follows; empty unless all are known."""
    sizes = [] if value.shape is None else list(value.shape)[1:]
    known = [size for size in sizes if isinstance(size, int)]
    return known if len(known) == len(sizes) else []


def _origin(value: ir.Value) -> str:
    producer = value.producer()
    return "" if producer is None else producer.op_type


def _strides(sizes: Sequence[int], most: int) -> tuple[int, ...]:
    """Divisors of `sizes` that leave `most` cells at most, or one."""
    divisors = [[step for step in range(1, size + 1) if size % step == 0] for size in sizes]
    cells = math.prod(sizes)
    candidates = [steps for steps in product(*divisors) if cells // math.prod(steps) <= max(most, 1)]
    return min(candidates, key=lambda steps: (math.prod(steps), max(steps)))


def _picker(channels: int, strides: Sequence[int]) -> FloatArray:
    """Weights `(C, 1, ...)` that take one value of each cell, each channel at its own place.

    So borders, where values differ, get their proper weight.
    """
    size = math.prod(strides)
    kernel = np.zeros((channels, size), np.float32)
    kernel[np.arange(channels), (np.arange(channels) * _GOLDEN % 1 * size).astype(int)] = 1
    return kernel.reshape(channels, 1, *strides)


def _add(graph: ir.Graph, operator: str, inputs: list[ir.Value], attributes: dict[str, Any], name: str) -> ir.Value:
    node = named_node(operator, inputs, name, attributes)
    graph.append(node)
    return node.outputs[0]


def _session(blob: bytes, optimized: Path | None = None) -> Any:
    """A session of one thread. With `optimized` it writes its optimized graph there; without, it runs the graph as is.

    Among the nodes that are ready, it runs the first in the file: those of the statistics.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if optimized is None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    else:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])


def _optimized(model: onnx.ModelProto, own: Sequence[str]) -> onnx.ModelProto:
    """The model as ONNX Runtime optimizes it, with the nodes for the network's `own` outputs after all others.

    A statistic then runs while its tensor is in the cache; otherwise whole stages of the network would run first.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        _session(model.SerializeToString(), path)
        optimized = onnx.load(str(path))
    nodes = list(optimized.graph.node)
    needed = set(own)
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
    del optimized.graph.node[:]
    optimized.graph.node.extend(sorted(nodes, key=lambda node: not needed.isdisjoint(node.output)))
    return optimized
