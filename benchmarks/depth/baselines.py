"""The peers that engines are compared with in the same run, and the ratios.

The peers are eager PyTorch, torch.compile, and NNCF with OpenVINO.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetrt.benchmarks.depth.bundles import CALIBRATION_DATA, CALIBRATION_IMAGES
from resnetrt.benchmarks.measure.latency import BASELINE, Contender, Infer
from resnetrt.benchmarks.measure.timing import paired_ratio
from resnetrt.benchmarks.peers.nncf import NNCF, NNCF_FRAMES, bake_frames, nncf_model, open_request
from resnetrt.benchmarks.verify.reference import eager_infer
from resnetrt.bundle import Bundle
from resnetrt.errors import BackendMissing
from resnetrt.preprocess import FloatArray, UInt8Array

if TYPE_CHECKING:
    from torch import nn

COMPILED = "torch-compile-fp32"
PEERS = (BASELINE, COMPILED, NNCF, NNCF_FRAMES)
Row = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A peer that runs here. `infer` takes the result of `prepare` for uint8 `(N, H, W, C)` frames.

    If `on_images`, that result is float32 `(N, C, H, W)`, as engines are timed on; else it is the frames themselves.
    """

    engine: str
    backend: str
    precision: str
    threads: int
    prepare: Callable[[UInt8Array], Any]
    infer: Infer
    on_images: bool = True

    @property
    def contender(self) -> Contender:
        """The peer as a contender for the timing of the engine alone."""
        return Contender(self.engine, self.backend, self.precision, self.infer, self.threads)


def eager(module: "nn.Module", bundle: Bundle, threads: int) -> Peer:
    """Eager FP32, the baseline of every ratio; sets torch's number of threads."""
    import torch

    torch.set_num_threads(threads)
    normalize = bundle.manifest.preprocessing.normalize
    return Peer(BASELINE, "eager", "fp32", threads, normalize, eager_infer(module))


def open_peers(module: "nn.Module | None", bundle: Bundle, work: Path, threads: int) -> Iterator[Peer | str]:
    """Each peer, or a line that says why it is missing. Models that take long to make are kept in `work`."""
    normalize = bundle.manifest.preprocessing.normalize

    def compiled() -> Peer:
        return Peer(COMPILED, "torch-compile", "fp32", threads, normalize, _compiled(module))

    def nncf() -> Peer:
        infer = open_request(_nncf(bundle, work), threads)
        return Peer(NNCF, "nncf-openvino", "int8", threads, normalize, infer)

    def nncf_frames() -> Peer:
        baked = bake_frames(_nncf(bundle, work), bundle.manifest.preprocessing)
        return Peer(NNCF_FRAMES, "nncf-openvino", "int8", threads, _as_they_are, open_request(baked, threads), False)

    for name, make in ((COMPILED, compiled), (NNCF, nncf), (NNCF_FRAMES, nncf_frames)):
        try:
            yield make()
        except BackendMissing as error:
            yield str(error)
        except Exception as error:  # torch.compile and NNCF raise whatever their compilers raise
            yield f"{bundle.manifest.name} {name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _as_they_are(frames: UInt8Array) -> UInt8Array:
    return frames


def _nncf(bundle: Bundle, work: Path) -> Path:
    """NNCF's model, calibrated on the same images as the lab's own bundles."""
    return nncf_model(bundle, work, CALIBRATION_DATA, CALIBRATION_IMAGES)


def _compiled(module: "nn.Module | None") -> Infer:
    """Inductor with frozen weights, channels-last, compiled for each batch size: the fastest way within torch."""
    if module is None:
        raise BackendMissing(f"{COMPILED}: expected the eager module, found none; install resnetrt[torch]")
    import copy

    import torch
    from torch._inductor import config as inductor

    torch._dynamo.reset()  # after eight networks it would fall back to eager
    inductor.freezing = True
    frozen = copy.deepcopy(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    compiled: Any = torch.compile(frozen, dynamic=False)

    def infer(images: FloatArray) -> FloatArray:
        with torch.inference_mode():
            x = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            logits: FloatArray = compiled(x).numpy()
        return logits

    return infer


def against_peers(results: Sequence[Row], end_to_end: Sequence[Row]) -> list[Row]:
    """One row for each network, batch, source and peer: the time of our fastest engine divided by the peer's.

    `source` is `engine` for the engine alone on float32 images, else the start of the path (`frame`, `jpeg`). `ratio`
    is the median of the rounds' ratios, below one if our engine is faster; None with fewer than six `rounds`. Empty
    unless peers other than eager were timed.
    """
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in results:
        groups.setdefault((row["network"], row["batch"], "engine"), []).append(row)
    for row in end_to_end:
        groups.setdefault((row["network"], row["batch"], row["source"]), []).append(row)
    found = [row for key, rows in groups.items() for row in _compare(*key, rows)]
    return found if any(row["peer"] != BASELINE for row in found) else []


def _compare(network: str, batch: int, source: str, rows: Sequence[Row]) -> Iterator[Row]:
    own = [row for row in rows if row["engine"] not in PEERS]
    best = min(own, key=lambda row: float(row["median_ms"]), default=None)
    for peer in rows if best is not None else ():
        if peer["engine"] not in PEERS:
            continue
        assert best is not None
        found = paired_ratio(best["round_medians_ms"], peer["round_medians_ms"])
        names = {"network": network, "batch": batch, "source": source, "engine": best["engine"]}
        numbers = {"ratio": found and found.value, "ratio_ci": found and [found.low, found.high]}
        numbers |= {"rounds": len(best["round_medians_ms"])}
        yield names | {"peer": peer["engine"]} | numbers


def closest(rows: Sequence[Row]) -> list[Row]:
    """For each network, batch and source with a ratio, the row of the peer that comes closest."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row["ratio"] is None:
            continue
        key = (row["network"], row["batch"], row["source"])
        if key not in found or row["ratio"] > found[key]["ratio"]:
            found[key] = row
    return list(found.values())
