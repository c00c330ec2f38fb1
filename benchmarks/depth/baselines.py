"""What engines are compared with in the same run, and the ratios: eager PyTorch or its substitute, and the peers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from resnetrt.benchmarks.measure.end_to_end import PathRow
from resnetrt.benchmarks.measure.latency import (
    BASELINE,
    BASELINES,
    COMPILED,
    COMPILED_GPU,
    CPU,
    DEVICE,
    EAGER_GPU,
    EAGER_GPU_FP16,
    GPU,
    HOST,
    IN_PLACE,
    NNCF,
    NNCF_FRAMES,
    SUBSTITUTE,
    Contender,
    Infer,
    LatencyRow,
    Place,
)
from resnetrt.benchmarks.measure.timing import EngineTimingRow, paired_ratio
from resnetrt.benchmarks.measure.torch_calls import TorchOnDevice, torch_gpu
from resnetrt.benchmarks.verify.reference import eager_infer
from resnetrt.bundle import Bundle
from resnetrt.export.variants.parity import onnx_runner
from resnetrt.preprocess import UInt8Array

if TYPE_CHECKING:
    from torch import nn

_ON_GPU = (EAGER_GPU, EAGER_GPU_FP16, COMPILED_GPU)
PEERS = (*BASELINES, *_ON_GPU, *(name + IN_PLACE for name in _ON_GPU), COMPILED, NNCF, NNCF_FRAMES)
ENGINE, ENGINE_IN_PLACE = "engine", "engine in place"  # the `source` of a comparison of engines alone
_SOURCES = {HOST: ENGINE, DEVICE: ENGINE_IN_PLACE}


class RivalRow(TypedDict):
    """Our fastest engine beside a peer: its time over the peer's, None from too few rounds."""

    network: str
    batch: int
    source: str
    engine: str
    peer: str
    ratio: float | None
    ratio_ci: list[float] | None
    rounds: int


@dataclass(frozen=True)
class Peer:
    """A peer that runs here. `infer` takes the result of `prepare` for uint8 `(N, H, W, C)` frames.

    If `on_images`, that result is float32 `(N, C, H, W)`, as engines are timed on; else it is the frames themselves.
    `place` is there for one on a GPU, which is timed without transfers too.
    """

    engine: str
    backend: str
    precision: str
    threads: int
    prepare: Callable[[UInt8Array], Any]
    infer: Infer
    on_images: bool = True
    device: str = CPU
    place: Place | None = None

    @property
    def contenders(self) -> list[Contender]:
        """The peer as a contender for the timing of the engine alone; on a GPU also without transfers."""
        own = Contender(self.engine, self.backend, self.precision, self.infer, self.threads, device=self.device)
        return [own] if self.place is None else [own, own.in_place(self.place)]


def peer_on_gpu(engine: str, backend: str, infer: TorchOnDevice, bundle: Bundle, threads: int) -> Peer:
    """A module that torch runs on the GPU, as a peer."""
    normalize = bundle.manifest.preprocessing.normalize
    return Peer(engine, backend, infer.precision, threads, normalize, infer, device=GPU, place=infer.stay)


def eager(module: "nn.Module", bundle: Bundle, threads: int) -> Peer:
    """Eager FP32, the baseline of every ratio; sets torch's number of threads."""
    import torch

    torch.set_num_threads(threads)
    normalize = bundle.manifest.preprocessing.normalize
    return Peer(BASELINE, "eager", "fp32", threads, normalize, eager_infer(module))


def eager_on_gpu(module: "nn.Module", bundle: Bundle, threads: int) -> Iterator[Peer]:
    """Eager FP32 and FP16 on the chosen GPU, where torch sees it; each with transfers and without."""
    device = torch_gpu()
    if device is None:
        return
    for name, precision in ((EAGER_GPU, "fp32"), (EAGER_GPU_FP16, "fp16")):
        yield peer_on_gpu(name, "eager", TorchOnDevice(module, device, precision), bundle, threads)


def fp32_file(bundle: Bundle, threads: int) -> Peer:
    """The FP32 file in ONNX Runtime: the baseline where eager can't run, as on a device without torch."""
    infer = onnx_runner(bundle.variant_file("fp32"), threads)
    return Peer(SUBSTITUTE, "onnxruntime", "fp32", threads, bundle.manifest.preprocessing.normalize, infer)


def against_peers(results: Sequence[LatencyRow], end_to_end: Sequence[PathRow]) -> list[RivalRow]:
    """One row for each network, batch, source and peer: the time of our fastest engine divided by the peer's.

    `source` is `engine` for the engine alone on float32 images, `engine in place` for cells without transfers, else the
    start of the path (`frame`, `jpeg`). `ratio`
    is the median of the rounds' ratios, below one if our engine is faster; None with fewer than six `rounds`. Empty
    unless peers other than eager were timed.
    """
    groups: dict[tuple[str, int, str], list[EngineTimingRow]] = {}
    for row in results:
        groups.setdefault((row["network"], row["batch"], _SOURCES[row.get("data", HOST)]), []).append(row)
    for path in end_to_end:
        groups.setdefault((path["network"], path["batch"], path["source"]), []).append(path)
    ratios = [ratio for key, rows in groups.items() for ratio in _compare(*key, rows)]
    return ratios if any(row["peer"] not in BASELINES for row in ratios) else []


def _compare(network: str, batch: int, source: str, rows: Sequence[EngineTimingRow]) -> Iterator[RivalRow]:
    own = [row for row in rows if row["engine"] not in PEERS]
    best = min(own, key=lambda row: float(row["median_ms"]), default=None)
    for peer in rows if best is not None else ():
        if peer["engine"] not in PEERS:
            continue
        assert best is not None
        ratio = paired_ratio(best["round_medians_ms"], peer["round_medians_ms"])
        yield {
            "network": network,
            "batch": batch,
            "source": source,
            "engine": best["engine"],
            "peer": peer["engine"],
            "ratio": None if ratio is None else ratio.value,
            "ratio_ci": None if ratio is None else [ratio.low, ratio.high],
            "rounds": len(best["round_medians_ms"]),
        }


def closest(rows: Sequence[RivalRow]) -> list[RivalRow]:
    """For each network, batch and source with a ratio, the row of the peer that comes closest."""
    nearest: dict[tuple[str, int, str], tuple[float, RivalRow]] = {}
    for row in rows:
        if row["ratio"] is None:
            continue
        key = (row["network"], row["batch"], row["source"])
        if key not in nearest or row["ratio"] > nearest[key][0]:
            nearest[key] = (row["ratio"], row)
    return [row for _, row in nearest.values()]
