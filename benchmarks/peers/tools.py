"""The quantizers that are compared: a name, a description, and a function from FP32 ONNX and images to an INT8 model.

Every tool gets the same `fp32.onnx` and the same images in the same order, and quantizes everything, including the
first convolution and the last layer.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnetrt.bundle import Bundle
from resnetrt.calibration.graph.dialects import DIALECTS
from resnetrt.calibration.images.data import Dataset, open_dataset
from resnetrt.calibration.observe.collect import calibrate_bundle
from resnetrt.calibration.quantize.learn_rounding import Learning
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
from resnetrt.export.compilers import find_compiler
from resnetrt.preprocess import FloatArray

CPU_BACKENDS = ("openvino", "onnxruntime")
REFERENCE = "nncf-mixed"  # latencies are divided by its latency
BATCH = 16  # the best size for NNCF, see `_nncf`; it does not affect ONNX Runtime's ranges


@dataclass(frozen=True)
class ToolJob:
    """What a tool works on: its own bundle, which it may change, images, and the place for its model."""

    bundle: Bundle
    data: str
    samples: int
    out: Path

    @property
    def fp32(self) -> Path:
        """The model to quantize, BatchNorm folded."""
        return self.bundle.variant_file("fp32")

    def dataset(self) -> Dataset:
        """The calibration images, the same that `calibrate_bundle` chooses."""
        dataset = open_dataset(self.data, self.bundle.manifest.preprocessing, labelled=False)
        return dataset.subset(self.samples, 0) if len(dataset) > self.samples else dataset

    def images(self, size: int) -> Iterator[FloatArray]:
        """Normalised float32 `(size, C, H, W)`."""
        normalize = self.bundle.manifest.preprocessing.normalize
        return (normalize(batch.frames) for batch in self.dataset().batches(size))


@dataclass(frozen=True)
class Tool:
    """One quantizer with one setting. `dialect` `tensorrt` means symmetric int8 everywhere; the others use uint8.

    `package` must be installed. `input` is what its model takes (as in `VariantRecord`); `backends` run its model.
    `quantize` returns the model's file.
    """

    name: str
    package: str
    dialect: str
    quantize: Callable[[ToolJob], Path] = field(repr=False)
    backends: tuple[str, ...] = CPU_BACKENDS
    input: str = "float32"

    @property
    def installed(self) -> bool:
        """Whether the package is here."""
        return importlib.util.find_spec(self.package) is not None


_LEARNING_SECONDS = 120.0
TOOLS: dict[str, Tool] = {}


def _register(tool: Tool) -> None:
    TOOLS[tool.name] = tool


def _nncf(preset: str, batch: int) -> Callable[[ToolJob], Path]:
    """NNCF on the OpenVINO model, with its defaults except for the preset.

    NNCF averages the extremes over batches, so the batch size decides the ranges: on ResNet-20 the MIXED preset reaches
    20.6 dB with single images, 30.0 with batches of 16, 29.6 with 64, 29.3 with 128.
    """

    def quantize(job: ToolJob) -> Path:
        import nncf
        import openvino as ov

        batches = list(job.images(batch))
        model = nncf.quantize(
            ov.Core().read_model(job.fp32),
            nncf.Dataset(batches),
            preset=nncf.QuantizationPreset(preset),
            subset_size=len(batches),
        )
        path = job.out.with_suffix(".xml")
        ov.save_model(model, path, compress_to_fp16=False)
        return path

    return quantize


def _ort(method: str, symmetric: bool) -> Callable[[ToolJob], Path]:
    """onnxruntime's quantizer: Q/DQ, weights int8 per channel, activations symmetric int8 or uint8."""

    def quantize(job: ToolJob) -> Path:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        path = job.out.with_suffix(".onnx")
        quantize_static(
            str(job.fp32),
            str(path),
            _reader(job),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod[method],
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
        )
        return path

    return quantize


def _reader(job: ToolJob) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Gives one batch after the other."""

        def __init__(self) -> None:
            self._images = job.images(BATCH)

        def get_next(self) -> dict[str, FloatArray] | None:
            image = next(self._images, None)
            return None if image is None else {job.bundle.manifest.input.name: image}

    return Reader()


def _own(dialect: str, kind: str, learned: bool = False) -> Callable[[ToolJob], Path]:
    """Our quantizer as the command line runs it: calibrate, then quantize with default options or learned rounding."""

    def quantize(job: ToolJob) -> Path:
        record = calibrate_bundle(job.bundle, job.data, job.samples, overwrite=True)  # of a copy
        learning = None
        if learned:
            recipe = job.bundle.manifest.preprocessing
            learning = Learning.of(job.data, recipe, record.image_hashes, _LEARNING_SECONDS)
        variant, _ = quantize_variant(job.bundle, dialect, QuantizeOptions(input=kind, learning=learning))
        return job.bundle.variant_file(variant)

    return quantize


def _backends_of(dialect: str) -> tuple[str, ...]:
    """The CPU backends that the dialect is made for; all CPU backends if it is made for a GPU."""
    return tuple(name for name in CPU_BACKENDS if dialect == find_compiler(name).DIALECT) or CPU_BACKENDS


for _method in ("MinMax", "Entropy", "Percentile"):
    _register(Tool(f"ort-int8-{_method.lower()}", "onnxruntime", "tensorrt", _ort(_method, symmetric=True)))
_register(Tool("ort-uint8-minmax", "onnxruntime", "cpu", _ort("MinMax", symmetric=False)))
for _preset in ("performance", "mixed"):
    _register(Tool(f"nncf-{_preset}", "nncf", "cpu", _nncf(_preset, BATCH), ("openvino",)))
    for _batch in (1, 64):
        _register(Tool(f"nncf-{_preset}-batch{_batch}", "nncf", "cpu", _nncf(_preset, _batch), ("openvino",)))
for _dialect in DIALECTS:
    for _kind in ("float32", "uint8"):
        _name = f"resnetrt-{_dialect}" + ("" if _kind == "float32" else f"-{_kind}")
        _register(Tool(_name, "resnetrt", _dialect, _own(_dialect, _kind), _backends_of(_dialect), _kind))
_LEARNED = _own("cpu", "uint8", learned=True)
_register(Tool("resnetrt-cpu-uint8-learned", "resnetrt", "cpu", _LEARNED, _backends_of("cpu"), "uint8"))
