"""One streaming pass over calibration images: extremes, histograms and channel means of every tensor that matters.

Runs the FP32 ONNX file in ONNX Runtime with extra outputs; per-channel reductions happen inside the graph. Memory is
bounded by tensors x bins plus the activations of one batch more than there are threads.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from resnetrt.bundle import Bundle, sha256_of
from resnetrt.calibration.data import Batch, Dataset, open_dataset, pixel_hash
from resnetrt.calibration.equalize import Factors, equalize, find_factors
from resnetrt.calibration.histogram import Histogram
from resnetrt.calibration.record import FILE, CalibrationRecord, TensorStatistics
from resnetrt.calibration.structure import commutes, is_constant, residual_adds, weighted_layers
from resnetrt.errors import BundleError, DataError
from resnetrt.preprocess import FloatArray, Preprocessing, UInt8Array
from resnetrt.progress import track
from resnetrt.settings import read_settings

_BATCH_BYTES = 64 << 20  # activations of one batch; one more than there are threads are held
_MAX_BATCH = 16
_EQUALIZING = 128  # images that decide the equalization: 32 are worth 0.3 dB less, 512 no more
_REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceMean")


def calibrate(
    model_path: Path, dataset: Dataset, preprocessing: Preprocessing, equalized: bool = False
) -> CalibrationRecord:
    """Run every image of `dataset` through the FP32 ONNX model and return the record.

    With `equalized` the model is equalized first (see `equalize`), by what the first images show.
    Raises `DataError` naming the tensor when an activation is NaN, infinite or constant. Only what nothing but a
    residual add reads may be constant: a branch whose last BatchNorm has no scale yet (gamma 0) is.
    """
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(onnx.load(str(model_path))))
    factors = _find_factors(model, dataset, preprocessing) if equalized else {}
    equalize(model.graph, factors)
    watched = watched_values(model.graph)
    outputs = [output for layer in weighted_layers(model.graph) if (output := layer.outputs[0]) not in watched]
    order = _names_in_order(model.graph, [*watched, *outputs])
    batch_size = _batch_size(watched)
    added = {value.name for value in watched if _only_added(value)}
    session = _session(_instrument(model, watched, outputs))
    collectors = {value.name or "": _Collector(value.name or "", value.name in added) for value in watched}
    means = {value.name or "": _Mean() for value in outputs}
    hashes: list[str] = []
    total = math.ceil(len(dataset) / batch_size)
    batches = track(dataset.batches(batch_size), "calibrating", total, "images", batch_size)
    for frames, images, results in _run_ahead(session, _normalized(batches, preprocessing)):
        hashes += [pixel_hash(frame) for frame in frames]
        _check_finite(results, order)
        for name, collector in collectors.items():
            collector.add(images if name == session.input_name else results[name], results)
        for name, mean in means.items():
            mean.add(results[f"{name}/ReduceMean"], len(images))
    tensors = {name: collector.statistics() for name, collector in collectors.items()}
    output_means = {name: mean.value for name, mean in means.items()}
    return CalibrationRecord(dataset.name, sha256_of(model_path), tuple(hashes), tensors, output_means, factors)


def _normalized(batches: Iterable[Batch], preprocessing: Preprocessing) -> Iterator[tuple[UInt8Array, FloatArray]]:
    """Frames and images of each batch."""
    return ((batch.frames, preprocessing.normalize(batch.frames)) for batch in batches)


def _run_ahead(
    session: "_Session", batches: Iterable[tuple[UInt8Array, FloatArray]]
) -> Iterator[tuple[UInt8Array, FloatArray, dict[str, FloatArray]]]:
    """Frames, images and results of each batch, in order; further batches run while the caller counts this one."""
    pending: deque[tuple[UInt8Array, FloatArray, Future[dict[str, FloatArray]]]] = deque()
    with ThreadPoolExecutor(session.workers) as pool:
        for frames, images in batches:
            pending.append((frames, images, pool.submit(session.run, images)))
            if len(pending) > session.workers:
                yield _finish(*pending.popleft())
        while pending:
            yield _finish(*pending.popleft())


def _finish(
    frames: UInt8Array, images: FloatArray, run: "Future[dict[str, FloatArray]]"
) -> tuple[UInt8Array, FloatArray, dict[str, FloatArray]]:
    return frames, images, run.result()


def _find_factors(model: ir.Model, dataset: Dataset, preprocessing: Preprocessing) -> Factors:
    """Equalization factors from the channels' extremes over the first `_EQUALIZING` images."""
    copy = ir.serde.deserialize_model(ir.serde.serialize_model(model))
    main = {add.main.name for add in residual_adds(copy.graph)}
    watched = [value for value in watched_values(copy.graph) if value.name not in main]  # those are left alone mostly
    for value in watched:
        _reduce(copy.graph, value, ("ReduceMin", "ReduceMax"))
    session = _session(copy)
    amax: Factors = {}
    batches = dataset.select(range(min(_EQUALIZING, len(dataset)))).batches(_batch_size(watched))
    for _, _, results in _run_ahead(session, _normalized(batches, preprocessing)):
        for name in (value.name or "" for value in watched):
            peak = np.maximum(np.abs(results[f"{name}/ReduceMin"]), np.abs(results[f"{name}/ReduceMax"]))
            amax[name] = np.maximum(amax.get(name, 0.0), np.where(np.isfinite(peak), peak, 0.0))
    return find_factors(model.graph, amax)


def _names_in_order(graph: ir.Graph, values: list[ir.Value]) -> list[str]:
    wanted = {value.name for value in values}
    every = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    return [value.name for value in every if value.name and value.name in wanted]


def _check_finite(results: dict[str, npt.NDArray[np.float32]], order: list[str]) -> None:
    """Name the first tensor of the graph that is not finite; minima and maxima may hide NaN, means do not."""
    for name in order:
        reduced = (results[key] for operator in _REDUCTIONS if (key := f"{name}/{operator}") in results)
        if not all(np.isfinite(array).all() for array in reduced):
            raise DataError(f"calibration: tensor {name} has NaN or infinite values; check the weights and images")


def watched_values(graph: ir.Graph) -> list[ir.Value]:
    """Values that a dialect may quantize: inputs of weighted layers and adds, and what commutes into them."""
    found: dict[str, ir.Value] = {}

    def watch(value: ir.Value | None) -> None:
        while value is not None and not is_constant(value) and value.name not in found:
            found[value.name or ""] = value
            producer = value.producer()
            if producer is None or not commutes(producer):
                return
            value = producer.inputs[0]

    for layer in weighted_layers(graph):
        watch(layer.inputs[0])
    for add in residual_adds(graph):
        watch(add.main)
        watch(add.shortcut)
    return list(found.values())


def _only_added(value: ir.Value) -> bool:
    """Whether only adds read `value`, so that no layer has it for an input."""
    return all(use.node.op_type == "Add" for use in value.uses())


class _Collector:
    """Statistics of one tensor, batch by batch."""

    def __init__(self, name: str, may_be_constant: bool) -> None:
        self.name = name
        self._may_be_constant = may_be_constant
        self._histogram = Histogram()
        self._mean = _Mean()
        self._amax: npt.NDArray[np.float64] | None = None
        self._extremes: list[tuple[float, float]] = []
        self._low: npt.NDArray[np.float32] | None = None
        self._varies = False

    def add(self, values: npt.NDArray[np.float32], results: dict[str, npt.NDArray[np.float32]]) -> None:
        low, high = results[f"{self.name}/ReduceMin"], results[f"{self.name}/ReduceMax"]
        amax = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
        self._amax = amax if self._amax is None else np.maximum(self._amax, amax)
        self._mean.add(results[f"{self.name}/ReduceMean"], len(values))
        self._note_variation(low, high, pixels=math.prod(values.shape[2:]))
        self._extremes.append((float(low.min()), float(high.max())))
        self._histogram.add(values, *self._extremes[-1])

    def _note_variation(self, low: npt.NDArray[np.float32], high: npt.NDArray[np.float32], pixels: int) -> None:
        """Whether some channel differs between pixels or images; pooled tensors of a single image can't tell."""
        self._low = low if self._low is None else self._low
        self._varies |= pixels <= 1 or bool((low != self._low).any() or (high != low).any())

    def statistics(self) -> TensorStatistics:
        histogram = self._histogram
        constant = histogram.minimum == histogram.maximum or not self._varies
        if self._amax is None or (constant and not self._may_be_constant):
            value = f"{histogram.minimum:g}" if histogram.minimum == histogram.maximum else "in every channel"
            raise DataError(
                f"calibration: tensor {self.name} is constant ({value}) over all images; "
                "check that the images are not blank and the weights not dead"
            )
        mean = self._mean.value
        extremes = np.array(self._extremes, np.float32)
        return TensorStatistics(
            histogram.minimum, histogram.maximum, histogram.bound, histogram.counts, mean, self._amax, extremes
        )


class _Mean:
    """Running mean per channel over batches of different sizes."""

    def __init__(self) -> None:
        self.value: npt.NDArray[np.float64] = np.zeros(0)
        self._count = 0

    def add(self, mean: npt.NDArray[np.float32], count: int) -> None:
        if self._count == 0:
            self.value = np.zeros(mean.shape, np.float64)
        self._count += count
        self.value += (mean - self.value) * (count / self._count)


class _Session:
    """The instrumented model; `run` returns the arrays by output name and may be called by `workers` threads at once.

    One core a batch and no pool inside: threads that spin would take the cores from those that count.
    """

    def __init__(self, blob: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
        self.workers = read_settings().threads
        self.input_name = self._session.get_inputs()[0].name
        self.names = [output.name for output in self._session.get_outputs()]

    def run(self, images: FloatArray) -> dict[str, FloatArray]:
        return dict(zip(self.names, self._session.run(self.names, {self.input_name: images}), strict=True))


def _session(model: ir.Model) -> _Session:
    return _Session(ir.serde.serialize_model(model).SerializeToString())


def _instrument(model: ir.Model, watched: list[ir.Value], outputs: list[ir.Value]) -> ir.Model:
    """Make the watched values graph outputs, and add the per-channel reductions of them and of layer outputs."""
    graph = model.graph
    kept = {output.name for output in graph.outputs}
    for value in watched:
        _reduce(graph, value, _REDUCTIONS)
        if value.producer() is not None and value.name not in kept:
            graph.outputs.append(value)
    for value in outputs:
        _reduce(graph, value, ("ReduceMean",))
    return model


def _reduce(graph: ir.Graph, value: ir.Value, operators: Iterable[str]) -> None:
    """Reduce over every axis but the channels (axis 1)."""
    if value.shape is None:
        raise BundleError(f"calibration: the number of axes of tensor {value.name} is unknown; export the model again")
    rank = len(value.shape)
    name = f"{value.name}/axes"
    axes = ir.Value(name=name, const_value=ir.tensor([i for i in range(rank) if i != 1], ir.DataType.INT64, name=name))
    graph.register_initializer(axes)
    for operator in operators:
        node = ir.node(operator, [value, axes], {"keepdims": 0}, name=f"{value.name}/{operator}")
        node.outputs[0].name = f"{value.name}/{operator}"
        graph.append(node)
        graph.outputs.append(node.outputs[0])


def _batch_size(watched: list[ir.Value]) -> int:
    """As many images as keep the watched activations of a batch under `_BATCH_BYTES`."""
    per_image = 0
    for value in watched:
        shape = [] if value.shape is None else list(value.shape)[1:]
        per_image += 4 * math.prod(dim if isinstance(dim, int) else 1 for dim in shape)
    return max(1, min(_MAX_BATCH, _BATCH_BYTES // max(per_image, 1)))


def calibrate_bundle(
    bundle: Bundle, data: str, samples: int, seed: int = 0, equalized: bool = True
) -> CalibrationRecord:
    """Calibrate on at most `samples` images of the data set `data` and store the record in the bundle."""
    preprocessing = bundle.manifest.preprocessing
    dataset = open_dataset(data, preprocessing, labelled=False)
    if len(dataset) > samples:
        dataset = dataset.subset(samples, seed)
    record = calibrate(bundle.variant_file("fp32"), dataset, preprocessing, equalized)
    with bundle.edit() as editor:
        editor.write(FILE, record.to_bytes())
    return record
