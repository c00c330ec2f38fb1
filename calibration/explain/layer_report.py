"""What quantization did to each layer, measured on the golden images.

The FP32 and the INT8 file run side by side in ONNX Runtime without graph optimisations, so that Q/DQ run as written. A
third run feeds every quantizer of the INT8 file with the FP32 value: an error there comes from the layer itself, not
from the layers before it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from resnetrt.bundle import Bundle
from resnetrt.calibration.explain.counterparts import other_quantities
from resnetrt.calibration.graph.qdq_graph import QdqGraph, Quantizer
from resnetrt.calibration.observe.equalize import along_channels, noted_factors
from resnetrt.errors import CheckFailed
from resnetrt.export.variants.inner_values import InnerValues
from resnetrt.export.variants.qdq import WEIGHTED
from resnetrt.golden import Golden
from resnetrt.parity import SQNR_CAP_DB

Arrays = dict[str, npt.NDArray[Any]]
_LAYERS = (*WEIGHTED, "Add")
_ACTIVATIONS = ("Relu", "Clip")


@dataclass(frozen=True)
class LayerRow:
    """One weighted layer or residual add.

    `sqnr_db` is of its output in the whole INT8 network, `own_sqnr_db` with exact inputs to its quantizers. `input` is
    the quantized tensor it reads (of an add: the one that clips more), None if it reads floats; `step` its scale, `low`
    and `high` what the integers reach, `minimum` and `maximum` what was seen. `clipped` is the share of values outside,
    `saturated` the share that gets an end of the integers (the end that means zero does not count).
    """

    layer: str
    op: str
    output: str
    sqnr_db: float
    own_sqnr_db: float
    input: str | None = None
    step: float | None = None
    low: float | None = None
    high: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    clipped: float = 0.0
    saturated: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The fields under their names."""
        return asdict(self)


_PIXELS = 32 * 64 * 64  # layer statistics need pixels, not images: four images of 224x224 are enough and take seconds
_LEAST_IMAGES = 4


def explain_variant(bundle: Bundle, variant: str) -> list[LayerRow]:
    """The layer report of a variant of a bundle on its golden images."""
    return explain_file(bundle, bundle.variant_file(variant))


def explain_file(bundle: Bundle, quantized: Path) -> list[LayerRow]:
    """The layer report of an INT8 file that is not, or not yet, part of the bundle."""
    frames = Golden.of(bundle).frames
    _, height, width, _ = frames.shape
    frames = frames[: max(_LEAST_IMAGES, _PIXELS // (height * width))]
    return layer_report(bundle.variant_file("fp32"), quantized, bundle.manifest.preprocessing.normalize(frames), frames)


def layer_report(
    reference: Path, quantized: Path, images: npt.NDArray[np.float32], frames: npt.NDArray[np.uint8] | None = None
) -> list[LayerRow]:
    """Rows in graph order, for every layer whose output bears the same name in both files, and holds the same.

    `images` float32 `(N, C, H, W)`; `frames` uint8 `(N, H, W, C)` for a quantized file that takes those. Raises
    `CheckFailed` if the files have no layer in common.
    """
    few = None if frames is None else frames[:_LEAST_IMAGES]
    runs = _Runs(onnx.load(reference), onnx.load(quantized), images[:_LEAST_IMAGES], few)
    layers = [_Layer(node, runs.graph, runs.limits(node)) for node in runs.layers]
    if not layers:
        raise CheckFailed(f"{quantized.name}: no layer output bears the same name as in {reference.name}")
    start = 0
    for count in _batches(len(images)):
        part = slice(start, start + count)
        start += count
        exact, whole, own = runs.run(images[part], None if frames is None else frames[part])
        for layer in layers:
            layer.add(exact, whole, own)
    return [layer.row() for layer in layers]


def _batches(total: int) -> Iterator[int]:
    """Batch sizes whose sum is `total`."""
    while total > 0:
        yield min(total, 4)
        total -= 4


class _Runs:
    """The three sessions, and the quantized file's layers that the reference has too."""

    def __init__(
        self,
        reference: onnx.ModelProto,
        quantized: onnx.ModelProto,
        images: npt.NDArray[np.float32],
        frames: npt.NDArray[np.uint8] | None,
    ) -> None:
        self.graph = QdqGraph(quantized)
        self._factors = noted_factors(quantized)
        self._frames = quantized.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
        self._input = quantized.graph.input[0].name
        self._made_by = {output: node.op_type for node in reference.graph.node for output in node.output}
        layers = [node for node in self.graph.layers(_LAYERS) if node.output[0] in self._made_by]
        named = {node.output[0] for node in layers} | (self.graph.quantized_values() & self._made_by.keys())
        self._exact = InnerValues(reference, named)
        limits = {node.output[0]: bounds for node in layers if (bounds := self.limits(node)) is not None}
        self._others = other_quantities(quantized, self._exactly(images), self._batch(images, frames), limits)
        self.layers = [node for node in layers if node.output[0] not in self._others]
        outputs = {node.output[0] for node in self.layers}
        self._cuts = (self.graph.quantized_values() & self._made_by.keys()) - self._others
        self._own = InnerValues(_cut(quantized, self._cuts), outputs)
        self._whole = InnerValues(quantized, outputs)

    def limits(self, node: onnx.NodeProto) -> tuple[float, float] | None:
        """What bounds the output of a layer that bears the name of an activation; None for any other.

        ONNX Runtime's quantizer replaces an activation by the limits of the integers after it, and gives the
        activation's name to the layer before it.
        """
        name = node.output[0]
        if self._made_by[name] not in _ACTIVATIONS:
            return None
        behind = (item for item in self.graph.nodes if item.op_type == "QuantizeLinear" and item.input[0] == name)
        quantizer = next(filter(None, map(self.graph.quantizer, behind)), None)
        return None if quantizer is None else quantizer.limits

    def run(self, images: npt.NDArray[np.float32], frames: npt.NDArray[np.uint8] | None) -> tuple[Arrays, ...]:
        """Values of a batch by name: exact, of the whole INT8 network, and of each layer on its own."""
        feed = {self._input: self._batch(images, frames)}
        exact = {name: value for name, value in self._exactly(images).items() if name not in self._others}
        own = self._own.run(feed | {_cut_name(name): exact[name] for name in self._cuts})
        return exact, self._whole.run(feed), own

    def _batch(self, images: npt.NDArray[np.float32], frames: npt.NDArray[np.uint8] | None) -> npt.NDArray[Any]:
        return frames if self._frames and frames is not None else images

    def _exactly(self, images: npt.NDArray[np.float32]) -> Arrays:
        """The FP32 file's values, as they are with the channels that the quantized file equalizes."""
        exact = self._exact.of(images)
        for name in exact.keys() & self._factors.keys():
            exact[name] = exact[name] / along_channels(self._factors[name], exact[name])
        return exact


def _cut_name(value: str) -> str:
    return f"{value}@exact"


def _cut(model: onnx.ModelProto, values: Iterable[str]) -> onnx.ModelProto:
    """A copy whose quantizers of `values` read new graph inputs instead."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    wanted = set(values)
    for node in copy.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in wanted:
            node.input[0] = _cut_name(node.input[0])
    for name in sorted(wanted):
        copy.graph.input.append(onnx.helper.make_tensor_value_info(_cut_name(name), onnx.TensorProto.FLOAT, None))
    return copy


class _Layer:
    """Sums of one layer over the batches; outputs are compared within `limits`."""

    def __init__(self, node: onnx.NodeProto, graph: QdqGraph, limits: tuple[float, float] | None) -> None:
        self._node, self._limits = node, limits
        self._inputs = [_Input(quantizer) for quantizer in graph.quantizers_of(node)]
        self._signal = self._noise = self._own_noise = 0.0

    def add(self, exact: Arrays, whole: Arrays, own: Arrays) -> None:
        name = self._node.output[0]
        values = [run[name] for run in (exact, whole, own)]
        if self._limits is not None:
            values = [np.clip(array, *self._limits) for array in values]
        right, noisy, alone = values
        self._signal += _square_sum(right)
        self._noise += _square_sum(noisy - right)
        self._own_noise += _square_sum(alone - right)
        for quantized in self._inputs:
            if quantized.quantizer.value in exact:
                quantized.add(exact[quantized.quantizer.value])

    def row(self) -> LayerRow:
        node = self._node
        sqnr, own = _decibels(self._signal, self._noise), _decibels(self._signal, self._own_noise)
        head = (node.name or node.output[0], node.op_type, node.output[0], sqnr, own)
        worst = max((item for item in self._inputs if item.count), key=lambda item: item.clipped, default=None)
        if worst is None:
            return LayerRow(*head)
        quantizer, count = worst.quantizer, worst.count
        limits = (quantizer.scale, *quantizer.limits, worst.minimum, worst.maximum)
        return LayerRow(*head, quantizer.value, *limits, worst.clipped / count, worst.saturated / count)


class _Input:
    """What a layer's quantizer meets."""

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer = quantizer
        self.count = self.clipped = self.saturated = 0
        self.minimum, self.maximum = np.inf, -np.inf

    def add(self, values: npt.NDArray[np.float32]) -> None:
        low, high = self.quantizer.limits
        half = self.quantizer.scale / 2
        self.minimum, self.maximum = min(self.minimum, float(values.min())), max(self.maximum, float(values.max()))
        self.count += values.size
        self.clipped += int(np.count_nonzero(values > high + half)) + int(np.count_nonzero(values < low - half))
        self.saturated += int(np.count_nonzero(values >= high - half))
        if low < 0:
            self.saturated += int(np.count_nonzero(values <= low + half))


def _square_sum(values: npt.NDArray[np.float32]) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _decibels(signal: float, noise: float) -> float:
    if noise <= 0:
        return SQNR_CAP_DB
    return float(np.clip(10 * np.log10(max(signal, 1e-300) / noise), -SQNR_CAP_DB, SQNR_CAP_DB))
