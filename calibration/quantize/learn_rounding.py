"""Learned rounding: each weight goes up or down so that the layer's output, not the weight, changes least.

With the covariance C of a layer's input patches, rounding errors E cost tr(E C E') in the layer's output (Nagel et al.
2020, AdaRound, arXiv:2004.10568, equation 13, and Frantar et al. 2022, arXiv:2210.17323). Coordinate descent chooses up
or down, for all outputs of a layer at once; means are left out of C, for bias correction takes them back. Nothing
changes at run time.
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from resnetrt.calibration.graph.structure import weighted_layers
from resnetrt.calibration.images.data import open_dataset, pixel_hash
from resnetrt.errors import DataError
from resnetrt.export.variants.inner_values import InnerValues
from resnetrt.export.variants.qdq import output_axis
from resnetrt.preprocess import Preprocessing, UInt8Array

IMAGES = 128
_BATCH = 16
_PATCHES = 200_000  # of a layer, over all images
_MOMENT_BYTES = 400 << 20  # covariances that are held at once
_SWEEPS = 4
_BLOCK = 64
_DAMPING = 1e-4  # share of the mean variance: directions that calibration images never show must not become free

Int8 = npt.NDArray[np.int8]
Float32 = npt.NDArray[np.float32]


class Learning:
    """What learned rounding may use: `frames` uint8 `(N, H, W, C)` of the calibration set, and seconds a model.

    `last` tells of the last model that was rounded.
    """

    def __init__(self, frames: UInt8Array, preprocessing: Preprocessing, seconds: float) -> None:
        self._frames, self._preprocessing, self._seconds = frames, preprocessing, seconds
        self.last: LearnedRounding | None = None

    @classmethod
    def of(cls, data: str, preprocessing: Preprocessing, hashes: Collection[str], seconds: float) -> "Learning":
        """Take the images of the data set `data` that calibration saw, `IMAGES` at most.

        Other images would escape the check for images that are used twice. Raises `DataError` if there are none.
        """
        dataset, wanted = open_dataset(data, preprocessing, labelled=False), set(hashes)
        frames: list[UInt8Array] = []
        for batch in dataset.batches(_BATCH):
            frames += [frame for frame in batch.frames if pixel_hash(frame) in wanted]
            if len(frames) >= IMAGES:
                break
        if not frames:
            raise DataError(f"data {data}: expected images of the calibration record, found none of them there")
        return cls(np.stack(frames[:IMAGES]), preprocessing, seconds)

    def start(self, model: ir.Model, frames_in: bool) -> "LearnedRounding":
        """Begin with a float model, which takes frames or normalised images."""

        def batches() -> Iterator[npt.NDArray[Any]]:
            for start in range(0, len(self._frames), _BATCH):
                frames = self._frames[start : start + _BATCH]
                yield frames if frames_in else self._preprocessing.normalize(frames)

        self.last = LearnedRounding(model, batches, self._seconds)
        return self.last


class LearnedRounding:
    """Rounds the layers of a float model, in graph order, until `seconds` are over; the others stay as they are.

    `batches` yields what the model takes, and is called several times. `learned` and `skipped` name the layers.
    """

    def __init__(self, model: ir.Model, batches: Callable[[], Iterable[npt.NDArray[Any]]], seconds: float) -> None:
        self._model = ir.serde.serialize_model(model)
        by_name = {layer.name or "": _Patches.of(layer) for layer in weighted_layers(model.graph)}
        self._patches = {name: patches for name, patches in by_name.items() if patches is not None}  # in graph order
        self._batches = batches
        self._end = time.monotonic() + seconds
        self._covariances: dict[str, Float32] = {}
        self.learned: list[str] = []
        self.skipped: list[str] = []

    def round(self, layer: ir.Node, weights: Float32, axis: int, integers: Int8, scales: Float32, limit: int) -> Int8:
        """Better integers in place of the nearest ones; `weights` and `integers` have outputs at `axis`."""
        name = layer.name or ""
        if time.monotonic() > self._end or name not in self._patches:
            self.skipped.append(name)
            return integers
        if name not in self._covariances:
            self._covariances = self._collect(self._next_group(name))
        rows = np.moveaxis(weights, axis, 0)
        nearest = np.moveaxis(integers, axis, 0)
        better = descend(
            rows.reshape(len(rows), -1), nearest.reshape(len(rows), -1), scales, self._covariances.pop(name), limit
        )
        self.learned.append(name)
        return np.ascontiguousarray(np.moveaxis(better.reshape(nearest.shape), 0, axis))

    def _next_group(self, first: str) -> list[str]:
        """`first` and the layers behind it whose covariances fit into memory together."""
        group: list[str] = []
        total = 0
        names = list(self._patches)
        for name in names[names.index(first) :]:
            total += 4 * self._patches[name].width ** 2
            if group and total > _MOMENT_BYTES:
                break
            group.append(name)
        return group

    def _collect(self, names: Sequence[str]) -> dict[str, Float32]:
        """Covariance `(width, width)` of the input patches of each layer."""
        patches = {name: self._patches[name] for name in names}
        session = InnerValues(self._model, {item.source for item in patches.values()}, as_written=False)
        sums = {name: _Moments() for name in names}
        for batch in self._batches():
            values, share = session.of(batch), _PATCHES // IMAGES * len(batch)
            for name, item in patches.items():
                sums[name].add(item.cut(values[item.source], share))
        return {name: moments.covariance() for name, moments in sums.items()}


def descend(rows: Float32, integers: Int8, scales: Float32, covariance: Float32, limit: int) -> Int8:
    """Integers `(outputs, width)`, each the floor or the ceiling of weight over scale, with less output error.

    `rows` are the float weights, `covariance` `(width, width)`; no integer leaves `[-limit, limit]`.
    """
    steps = scales.astype(np.float32)[:, None]
    ideal = rows / steps
    low, high = np.clip(np.floor(ideal), -limit, limit), np.clip(np.ceil(ideal), -limit, limit)
    chosen = integers.astype(np.float32)
    low, high = np.minimum(low, chosen), np.maximum(high, chosen)  # nearest may be beyond if a scale was raised
    gradient = (chosen - ideal) @ covariance
    diagonal = np.diag(covariance)
    for _ in range(_SWEEPS):
        moved = False
        for start in range(0, len(covariance), _BLOCK):
            block = slice(start, start + _BLOCK)
            own, inner = gradient[:, block].copy(), covariance[block, block]
            before = chosen[:, block].copy()
            for column in range(inner.shape[0]):
                at = start + column
                wanted = np.rint(chosen[:, at] - own[:, column] / diagonal[at])
                change = np.clip(wanted, low[:, at], high[:, at]) - chosen[:, at]
                chosen[:, at] += change
                own += change[:, None] * inner[column]
            change_of_block = chosen[:, block] - before
            if change_of_block.any():
                moved = True
                gradient += change_of_block @ covariance[block]
        if not moved:
            break
    return chosen.astype(np.int8)


class _Moments:
    """Sums over patches `(n, width)`."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: npt.NDArray[np.float64] = np.zeros(0)
        self._products: Float32 = np.zeros((0, 0), np.float32)

    def add(self, patches: Float32) -> None:
        if self._count == 0:
            self._sum = np.zeros(patches.shape[1])
            self._products = np.zeros((patches.shape[1], patches.shape[1]), np.float32)
        self._count += len(patches)
        self._sum += patches.sum(0, dtype=np.float64)
        self._products += patches.T @ patches

    def covariance(self) -> Float32:
        mean = (self._sum / self._count).astype(np.float32)
        covariance: Float32 = self._products / np.float32(self._count) - np.outer(mean, mean)
        trace = float(np.trace(covariance)) / len(covariance)
        covariance[np.diag_indices_from(covariance)] += np.float32(
            max(_DAMPING * trace, float(np.finfo(np.float32).tiny))
        )
        return covariance


class _Patches:
    """How a layer cuts its input: `(n, width)` rows in the order of its weights."""

    def __init__(self, source: str, width: int, kernel: tuple[int, ...], node: ir.Node) -> None:
        self.source, self.width, self._kernel = source, width, kernel
        self._strides = node.attributes.get_ints("strides", (1, 1))
        self._dilations = node.attributes.get_ints("dilations", (1, 1))
        self._pads = node.attributes.get_ints("pads", (0, 0, 0, 0))

    @classmethod
    def of(cls, node: ir.Node) -> "_Patches | None":
        """None for what is not learned: groups and automatic padding."""
        source, weight = node.inputs[0], node.inputs[1]
        assert source is not None
        assert weight is not None
        assert weight.const_value is not None
        shape = weight.const_value.shape.numpy()
        if node.op_type != "Conv":
            return cls(source.name or "", shape[1 - output_axis(node, 2)], (), node)
        automatic = node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
        if len(shape) != 4 or node.attributes.get_int("group", 1) != 1 or automatic:
            return None
        return cls(source.name or "", math.prod(shape[1:]), tuple(shape[2:]), node)

    def cut(self, values: Float32, count: int) -> Float32:
        """At most about `count` patches of a batch, evenly spread."""
        if not self._kernel:
            flat = values.reshape(-1, self.width)
            return flat[:: max(1, round(len(flat) / count))]
        top, left, bottom, right = self._pads
        padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
        reach = [(size - 1) * dilation + 1 for size, dilation in zip(self._kernel, self._dilations, strict=True)]
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, (2, 3))
        windows = windows[:, :, :: self._strides[0], :: self._strides[1], :: self._dilations[0], :: self._dilations[1]]
        positions = windows.shape[2] * windows.shape[3]
        step = max(1, round(len(values) * positions / count))
        rows, columns = np.divmod(np.arange(step // 2, positions, step), windows.shape[3])
        picked = windows[:, :, rows, columns]  # (N, C, positions, kH, kW)
        return np.ascontiguousarray(picked.transpose(0, 2, 1, 3, 4)).reshape(-1, self.width)
