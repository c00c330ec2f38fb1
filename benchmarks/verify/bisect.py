"""Which block diverges first: features of the reference and of an engine's ONNX file, block by block."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.measure.latency import BASELINE, SUBSTITUTE
from resnetrt.benchmarks.verify.blocks import Block, find_blocks
from resnetrt.benchmarks.verify.reference import rebuild_eager
from resnetrt.bundle import Bundle
from resnetrt.calibration.observe.equalize import along_channels, noted_factors
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.golden import Golden
from resnetrt.parity import sqnr_db, tolerance
from resnetrt.preprocess import FloatArray
from resnetrt.runtime import load
from resnetrt.runtime.session import batch_size, infer_all

Features = Mapping[str, npt.NDArray[np.float64]]
Scales = dict[str, float | FloatArray]  # one number, or one for each channel, in the tensor's units
_IMAGES = 16


@dataclass(frozen=True)
class BlockError:
    """The distance of one block's output from the reference's; `within` says whether `sqnr_db` reaches `limit_db`.

    `max_abs` and `rms` are in the tensor's units, `max_steps` and `rms_steps` in quantization steps if it is INT8.
    """

    block: str
    tensor: str
    sqnr_db: float
    limit_db: float
    max_abs: float
    rms: float
    max_steps: float | None
    rms_steps: float | None

    @property
    def within(self) -> bool:
        """Whether the block is within its tolerance; NaN is not."""
        return self.sqnr_db >= self.limit_db

    def to_json(self) -> dict[str, Any]:
        """The numbers under their field names; None for a number that is not finite."""
        record = asdict(self) | {"within": self.within}
        return {key: None if isinstance(v, float) and not np.isfinite(v) else v for key, v in record.items()}


@dataclass(frozen=True)
class Bisection:
    """`rows` in graph order; `first` is the first outside its tolerance, `before` the row above; either may be None.

    The last row is named `engine` if the engine's own output was compared: if only this row fails, the backend is to
    blame.
    """

    engine: str
    reference: str
    rows: tuple[BlockError, ...]

    @property
    def first(self) -> BlockError | None:
        """The first block outside its tolerance."""
        return next((row for row in self.rows if not row.within), None)

    @property
    def before(self) -> BlockError | None:
        """The block before the first that diverges."""
        first = self.first
        place = self.rows.index(first) if first is not None else 0
        return self.rows[place - 1] if place else None

    def to_json(self) -> dict[str, Any]:
        """The row of `verify --bisect --json`."""
        first, before = self.first, self.before
        return {
            "engine": self.engine,
            "reference": self.reference,
            "blocks": [row.to_json() for row in self.rows],
            "first": first and first.to_json(),
            "before": before and before.to_json(),
        }


def bisect(bundle: Bundle, name: str, weights: Path | None = None, count: int = _IMAGES) -> Bisection:
    """Compare engine or variant `name` with the reference, block by block, on at most `count` golden images.

    The reference is the live eager model if torch and its weights are here, else the FP32 ONNX file. Raises
    `UsageError` for an unknown name, or if the FP32 file would be compared with itself.
    """
    manifest = bundle.manifest
    engine = manifest.engines.get(name)
    variant = name if engine is None else engine.variant
    if variant not in manifest.variants:
        raise UsageError.unknown(f"engine or variant of {bundle.path}", name, [*manifest.engines, *manifest.variants])
    record = manifest.variants[variant]
    path = bundle.file(engine.file if engine is not None and engine.file.endswith(".onnx") else record.file)
    blocks = find_blocks(bundle.variant_file("fp32"))
    golden = Golden.of(bundle)
    frames = golden.frames[:count]
    images = manifest.preprocessing.normalize(frames)
    reference, expected = _reference(bundle, weights, blocks, images, judges_itself=record.file == "fp32.onnx")
    batch = frames if record.input == "uint8" else images
    features, scales = onnx_features(path, [block.output for block in blocks], batch)
    backend = bundle.read_engine(name).backend if engine is not None else "onnxruntime"
    limit = tolerance(backend, record.precision).sqnr_db
    rows = [
        compare_block(block.name, block.output, expected[block.output], features[block.output], limit, scales)
        for block in blocks
        if block.output in expected and block.output in features
    ]
    if engine is not None:
        rows.append(_engine_row(bundle, name, frames, golden.logits[:count].astype(np.float64), limit))
    return Bisection(name, reference, tuple(rows))


def compare_block(
    block: str,
    tensor: str,
    expected: npt.NDArray[np.float64],
    actual: npt.NDArray[np.float64],
    limit_db: float,
    scales: Scales,
) -> BlockError:
    """The error of one tensor; NaN and infinity count as outside any tolerance."""
    error = actual - expected
    finite = bool(np.isfinite(error).all())
    max_abs, rms = (float(np.abs(error).max()), float(np.sqrt(np.square(error).mean()))) if finite else (np.inf, np.inf)
    scale = scales.get(tensor)
    steps: tuple[float | None, float | None] = (None, None)
    if scale is not None:
        relative = error / scale if finite else np.full(1, np.inf)
        steps = (float(np.abs(relative).max()), float(np.sqrt(np.square(relative).mean())))
    return BlockError(block, tensor, sqnr_db(expected, actual) if finite else -np.inf, limit_db, max_abs, rms, *steps)


def onnx_features(path: Path, names: Sequence[str], batch: npt.NDArray[Any]) -> tuple[Features, Scales]:
    """The named tensors of the ONNX file `path`, run as written, without fusions; and their INT8 scales, if any.

    Tensors that the file lacks are left out.
    """
    import onnx

    from resnetrt.export.variants.inner_values import InnerValues

    model = onnx.load(str(path))
    present = {output for node in model.graph.node for output in node.output}
    wanted = [name for name in names if name in present]
    values = InnerValues(model, wanted).of(batch)
    constants = {item.name: item for item in model.graph.initializer}
    scales: Scales = {
        node.input[0]: float(onnx.numpy_helper.to_array(constants[node.input[1]]).max())
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] in wanted and node.input[1] in constants
    }
    features = {name: np.asarray(values[name], np.float64) for name in wanted}
    for name, factors in noted_factors(model).items():  # back to what the FP32 network computes
        if name in features:
            shaped = along_channels(factors, features[name])
            features[name] *= shaped
            if name in scales:
                scales[name] = scales[name] * shaped
    return features, scales


def _reference(
    bundle: Bundle, weights: Path | None, blocks: Sequence[Block], images: FloatArray, judges_itself: bool
) -> tuple[str, Features]:
    names = [block.output for block in blocks]
    exported, _ = onnx_features(bundle.variant_file("fp32"), names, images)
    try:
        module = rebuild_eager(bundle, weights)
    except UsageError as error:
        if judges_itself:
            raise UsageError(
                f"--bisect: expected the eager model to judge the FP32 file by, found none: {error}"
            ) from error
        return SUBSTITUTE, exported
    from resnetrt.benchmarks.verify.eager_features import eager_features

    return BASELINE, eager_features(module, bundle.variant_file("fp32"), images, exported, bundle.manifest.output)


def _engine_row(
    bundle: Bundle, name: str, frames: npt.NDArray[np.uint8], expected: npt.NDArray[np.float64], limit: float
) -> BlockError:
    output = bundle.manifest.output
    try:
        session = load(bundle, name)
    except CheckFailed:
        session = load(bundle, name, selftest=False)
    with session:
        logits = infer_all(session, session.prepare(frames), output, batch_size(session), overlap=True).astype(
            np.float64
        )
    return compare_block("engine", output, expected, logits, limit, {})
