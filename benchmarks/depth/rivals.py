"""The peers that `--peers` asks for: torch.compile, and NNCF with OpenVINO."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetrt.benchmarks.depth.baselines import Peer, peer_on_gpu
from resnetrt.benchmarks.depth.bundles import CALIBRATION_DATA, CALIBRATION_IMAGES
from resnetrt.benchmarks.measure.latency import COMPILED, COMPILED_GPU, NNCF, NNCF_FRAMES, Infer
from resnetrt.benchmarks.measure.torch_calls import TorchOnDevice, torch_gpu
from resnetrt.benchmarks.peers.nncf import bake_frames, nncf_model, open_request
from resnetrt.bundle import Bundle
from resnetrt.errors import BackendMissing
from resnetrt.parts import require_parts
from resnetrt.preprocess import FloatArray, UInt8Array

if TYPE_CHECKING:
    from torch import nn


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

    def compiled_on_gpu() -> Peer:
        assert gpu is not None
        infer = TorchOnDevice(_required(module), gpu, "fp16", compiled=True)
        return peer_on_gpu(COMPILED_GPU, "torch-compile", infer, bundle, threads)

    gpu = torch_gpu()
    makers = {COMPILED: compiled, NNCF: nncf, NNCF_FRAMES: nncf_frames}
    if gpu is not None:
        makers[COMPILED_GPU] = compiled_on_gpu
    for name, make in makers.items():
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


def _required(module: "nn.Module | None") -> "nn.Module":
    if module is None:
        require_parts(COMPILED, "torch")
        raise BackendMissing(f"{COMPILED}: expected the eager module, found none")
    return module


def _compiled(module: "nn.Module | None") -> Infer:
    """Inductor with frozen weights, channels-last, compiled for each batch size: the fastest way within torch."""
    import copy

    import torch
    from torch._inductor import config as inductor

    torch._dynamo.reset()  # after eight networks it would fall back to eager
    inductor.freezing = True
    frozen = copy.deepcopy(_required(module)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    compiled: Any = torch.compile(frozen, dynamic=False)

    def infer(images: FloatArray) -> FloatArray:
        with torch.inference_mode():
            x = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            logits: FloatArray = compiled(x).numpy()
        return logits

    return infer
