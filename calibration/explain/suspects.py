"""What looks wrong in a quantized network: the layer's name, the symptom, and a remedy, one line each.

Nothing here fails a run; the parity check does. These checks give the reason, and warn before a weak layer ruins the
network.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from resnetrt.bundle import CALIBRATE, Bundle
from resnetrt.calibration.explain.layer_report import LayerRow, explain_file
from resnetrt.calibration.graph.qdq_graph import QdqGraph
from resnetrt.calibration.observe.equalize import Factors, noted_factors
from resnetrt.calibration_record import CalibrationRecord
from resnetrt.errors import CheckFailed
from resnetrt.export.variants.qdq import output_axis

# Layers of healthy ResNets have 35 to 48 dB of their own (8 bits of a uniform signal give 50).
LEAST_OWN_DB = 20.0
MOST_CLIPPED = 0.01  # MSE ranges clip below 0.02 % on healthy ResNets
FEW_STEPS = 2.0  # MSE clipped 1.3 steps due to Fashion-MNIST's 44 % of black pixels; the network kept 40 dB
LEAST_LEVELS = 4.0  # integers left for the median channel; trained ResNets leave it 15 and more
LOST_INFLUENCE = 0.05
FEW_IMAGES = 32
BEYOND_RECORD = 1.5  # golden images reach this times the largest magnitude of calibration
_SEARCH = "keep it in a higher precision: resnetrt search BUNDLE --data FOLDER --max-drop 1"


@dataclass(frozen=True)
class Suspect:
    """`layer` is a node's name, or a tensor's or BatchNorm's where no layer is at fault."""

    layer: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.problem}; {self.remedy}"

    def to_json(self) -> dict[str, str]:
        """The fields under their names."""
        return asdict(self)


@dataclass(frozen=True)
class Clues:
    """What the checks look at: the layer report, the record, FP32 weights by layer name, and `fold.json`.

    `factors` are those by which the file equalizes its channels; another tool's file, or one from a cache, has none
    though the record may.
    """

    rows: Sequence[LayerRow]
    record: CalibrationRecord | None
    weights: dict[str, npt.NDArray[np.float32]]
    fold: dict[str, Any]
    factors: Factors = field(default_factory=dict)

    def channel_amax(self, name: str | None) -> npt.NDArray[np.float64] | None:
        """The largest magnitude of each channel in the FP32 file over the calibration images; None if not recorded."""
        if self.record is None or name is None or name not in self.record.tensors:
            return None
        return self.record[name].channel_amax * self.record.equalization.get(name, 1.0)

    def in_file(self, name: str, amax: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """`amax` of the FP32 file as the quantized file has it."""
        return amax / self.factors.get(name, 1.0)


Check = Callable[[Clues], Iterator[Suspect]]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    """Register a check."""
    CHECKS.append(function)
    return function


def suspects_of(bundle: Bundle, quantized: Path, rows: Sequence[LayerRow] | None = None) -> list[Suspect]:
    """Everything suspicious about an INT8 file of a bundle; `rows` is its layer report where that was made already."""
    rows = explain_file(bundle, quantized) if rows is None else rows
    record = CalibrationRecord.of(bundle)
    fold = bundle.read_json("fold.json") if "fold.json" in bundle.manifest.files else {}
    weights, factors = layer_weights(bundle.variant_file("fp32")), noted_factors(onnx.load(quantized))
    return find_suspects(Clues(rows, record, weights, fold, factors))


def layer_weights(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Weights of the Conv and Gemm nodes of a float file, `(outputs, inputs a group, ...)`.

    A MatMul's belong to its input's last axis, not to the channels that records are about.
    """
    model = onnx.load(path)
    graph = QdqGraph(model)
    nodes = {value.name: node for node in ir.serde.deserialize_model(model).graph for value in node.outputs}
    weights = {}
    for node in graph.layers(("Conv", "Gemm")):
        weight = graph.constant(node.input[1])
        if weight is not None:
            axis = output_axis(nodes[node.output[0]], weight.ndim)
            weights[node.name] = np.moveaxis(weight, axis, 0)
    return weights


def find_suspects(clues: Clues) -> list[Suspect]:
    """The findings of every check, in the order of the checks."""
    return [suspect for function in CHECKS for suspect in function(clues)]


@contextmanager
def blaming(bundle: Bundle, quantized: Path) -> Iterator[None]:
    """Add to a `CheckFailed` of the block which layers are suspicious, so that a collapse has a name."""
    try:
        yield
    except CheckFailed as error:
        try:
            rows = explain_file(bundle, quantized)
            suspects = suspects_of(bundle, quantized, rows)
        except Exception:
            raise error from None  # the collapse matters, not that it can't be explained
        worst = min(rows, key=lambda row: row.own_sqnr_db)
        names = " | ".join(map(str, suspects[:3])) or f"lowest of its own: {worst.layer}, {worst.own_sqnr_db:.1f} dB"
        raise CheckFailed(f"{error}. Suspicious: {names}") from error


@check
def few_images(clues: Clues) -> Iterator[Suspect]:
    """Ranges from a handful of images cut off what the next image brings."""
    count = len(clues.record.image_hashes) if clues.record else FEW_IMAGES
    if count < FEW_IMAGES:
        remedy = f"calibrate with 128 or more: {CALIBRATE} --samples 128 --overwrite"
        yield Suspect("calibration", f"only {count} images", remedy)


@check
def unjudged(clues: Clues) -> Iterator[Suspect]:
    """Layers of another tool's file that have no row: under their names stands something else than in FP32."""
    missing = len(clues.weights.keys() - {row.layer for row in clues.rows})
    if missing and clues.rows:
        problem = f"{missing} of {len(clues.weights)} hold other values under their names than in FP32"
        yield Suspect("layers", problem, "they are not judged here; only the outputs are")


@check
def low_sqnr(clues: Clues) -> Iterator[Suspect]:
    """A layer whose own quantization destroys much of its output."""
    guilty = False  # whether a layer since the last add is; its noise enters the next add, which is then not to blame
    for row in clues.rows:
        inherited, guilty = guilty and row.op == "Add", guilty and row.op != "Add"
        if row.own_sqnr_db < LEAST_OWN_DB and not inherited:
            guilty = row.op != "Add"
            clips = row.clipped > MOST_CLIPPED
            problem = f"its own quantization leaves {row.own_sqnr_db:.1f} dB (expected at least {LEAST_OWN_DB:.0f})"
            more = f"try quantize --method minmax, or calibrate with more images: {CALIBRATE} --overwrite"
            yield Suspect(row.layer, problem, more if clips else _remedy_of_spread(clues))


@check
def clipping(clues: Clues) -> Iterator[Suspect]:
    """A range that cuts a noticeable share of what the golden images bring."""
    for row in clues.rows:
        if row.clipped > MOST_CLIPPED and _reaches_beyond(row):
            problem = f"{row.clipped:.1%} of its input {row.input} lie outside [{row.low:.3g}, {row.high:.3g}]"
            remedy = "try quantize --method minmax, or calibrate with images like those it will see"
            yield Suspect(row.layer, problem, remedy)


def _reaches_beyond(row: LayerRow) -> bool:
    """Whether values lie a few steps outside the range; one step, even for many, costs little."""
    margin = FEW_STEPS * (row.step or 0.0)
    below, above = (row.low or 0.0) - (row.minimum or 0.0), (row.maximum or 0.0) - (row.high or 0.0)
    return max(below, above) > margin


@check
def beyond_record(clues: Clues) -> Iterator[Suspect]:
    """Calibration images that do not stand for the golden ones."""
    for name, row in _by_input(clues.rows).items():
        recorded = clues.channel_amax(name)
        amax = np.inf if recorded is None else clues.in_file(name, recorded).max()
        reached = max(-(row.minimum or 0.0), row.maximum or 0.0)
        if reached > BEYOND_RECORD * amax:
            problem = f"golden images reach {reached:.3g} in {name}, calibration only {amax:.3g}"
            yield Suspect(row.layer, problem, "calibrate with images like those it will see")


@check
def lost_channels(clues: Clues) -> Iterator[Suspect]:
    """Channels that round to zero although the weights behind them make them count."""
    for row, amax, influence in _channels(clues):
        assert row.step is not None
        lost = (amax > 0) & (amax < row.step / 2)
        heard = influence[~lost].max(initial=0.0)
        matter = int(np.count_nonzero(lost & (influence > LOST_INFLUENCE * heard)))
        if matter:
            problem = f"{matter} of {len(amax)} channels of its input {row.input} round to zero (step {row.step:.3g})"
            yield Suspect(row.layer, problem, _remedy_of_spread(clues))


@check
def outlier_channel(clues: Clues) -> Iterator[Suspect]:
    """One channel that sets the range and leaves the others a few integers."""
    for row, amax, _ in _channels(clues):
        assert row.step is not None
        live = amax[amax > 0]
        levels = float(np.median(live)) / row.step if len(live) else np.inf
        if levels < LEAST_LEVELS:
            top = int(amax.argmax())
            problem = f"channel {top} of its input {row.input} reaches {amax[top]:.3g}, the median channel "
            problem += f"{np.median(live):.3g} and so has {levels:.1f} integers"
            yield Suspect(row.layer, problem, _remedy_of_spread(clues))


@check
def dead_channels(clues: Clues) -> Iterator[Suspect]:
    """Inputs most of whose channels never differ from zero."""
    for row, amax, _ in _channels(clues):
        dead = int(np.count_nonzero(amax == 0))
        if dead > len(amax) / 2:
            problem = f"{dead} of {len(amax)} channels of its input {row.input} are dead (always zero)"
            yield Suspect(row.layer, problem, "check the weights; a pruned network can be made narrower")


@check
def tiny_variance(clues: Clues) -> Iterator[Suspect]:
    """BatchNorms whose eps, not the data, decides a channel's scale; folding multiplies it by up to 1 / sqrt(eps)."""
    for item in clues.fold.get("convolutions", []):
        channels = item["tiny_variance_channels"]
        if channels:
            problem = f"running variance of at most eps in {len(channels)} channels ({_listed(channels)})"
            remedy = "check that these channels are not dead; recompute the statistics or raise eps in training"
            yield Suspect(item["batch_norm"], problem, remedy)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:4])) + (f" and {len(numbers) - 4} more" if len(numbers) > 4 else "")


def _by_input(rows: Sequence[LayerRow]) -> dict[str, LayerRow]:
    """The first row that reads each quantized tensor."""
    readers: dict[str, LayerRow] = {}
    for row in rows:
        if row.input is not None:
            readers.setdefault(row.input, row)
    return readers


def _remedy_of_spread(clues: Clues) -> str:
    """Equalization, unless that was tried."""
    if clues.record is None or clues.factors:
        return _SEARCH
    if clues.record.equalization:
        return "equalize the channels: resnetrt quantize BUNDLE, by the bundle's own record"
    return f"equalize the channels: {CALIBRATE} --overwrite, without --no-equalize"


def _channels(clues: Clues) -> Iterator[tuple[LayerRow, npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Per weighted layer: its row, the largest magnitude of each input channel, that times the norm of its weights."""
    for row in clues.rows:
        weights, amax = clues.weights.get(row.layer), clues.channel_amax(row.input)
        if weights is None or amax is None or row.step is None or row.input is None:
            continue
        groups, rest = divmod(len(amax), weights.shape[1])
        if rest == 0 and groups and len(weights) % groups == 0:
            grouped = weights.reshape(groups, len(weights) // groups, weights.shape[1], -1)
            norms = np.sqrt(np.square(grouped, dtype=np.float64).sum((1, 3))).ravel()
            yield row, clues.in_file(row.input, amax), amax * norms
