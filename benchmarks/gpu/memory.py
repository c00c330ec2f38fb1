"""GPU checks of the CUDA protocol: copies, graph replays and torch's memory, compared with numpy."""

from typing import Any

import numpy as np

from resnetrt.errors import BackendMissing, CheckFailed
from resnetrt.runtime.cuda import Cuda, DeviceBuffer, PinnedBuffer
from resnetrt.runtime.cuda.dlpack import DeviceTensor, borrow

_SIZE = 64 << 20
_REPLAYS = 20


def check_copies(cuda: Cuda, size_bytes: int = _SIZE) -> dict[str, Any]:
    """Copy random bytes to the device and back; milliseconds of both copies together."""
    stream, start, end = cuda.create_stream(), cuda.create_event(), cuda.create_event()
    source, target = PinnedBuffer(cuda, size_bytes), PinnedBuffer(cuda, size_bytes)
    device = DeviceBuffer(cuda, size_bytes)
    source.bytes[:] = np.random.default_rng(0).integers(0, 256, size_bytes, np.uint8)
    target.bytes[:] = 0
    cuda.record(start, stream)
    cuda.copy_in(device.address, source.bytes, stream)
    cuda.copy_out(target.bytes, device.address, stream)
    cuda.record(end, stream)
    milliseconds = cuda.elapsed_ms(start, end)
    cuda.synchronize(stream)
    _require_equal(source.bytes, target.bytes, "copied to the device and back")
    return {"size_bytes": size_bytes, "round_trip_ms": milliseconds}


def check_graph(cuda: Cuda) -> dict[str, Any]:
    """Capture a copy to the device and back, and replay it with new input each time."""
    if not cuda.supports_graphs:
        raise BackendMissing(f"{cuda.name} has no CUDA graphs")
    stream = cuda.create_stream()
    source, target, device = PinnedBuffer(cuda, 4096), PinnedBuffer(cuda, 4096), DeviceBuffer(cuda, 4096)

    def work() -> None:
        cuda.copy_in(device.address, source.bytes, stream)
        cuda.copy_out(target.bytes, device.address, stream)

    graph = cuda.capture(stream, work)
    for value in range(1, _REPLAYS + 1):
        source.bytes[:] = value
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        _require_equal(source.bytes, target.bytes, f"replayed {value} times")
    cuda.destroy_graph(graph)
    return {"replays": _REPLAYS}


def check_torch(cuda: Cuda) -> dict[str, Any]:
    """Read a torch tensor in place, and let torch read our memory, both without a copy."""
    import torch

    if cuda.dlpack_device[0] != 1 and not torch.cuda.is_available():
        raise BackendMissing("torch is a CPU build or sees no GPU")
    place = "cpu" if cuda.dlpack_device[0] == 1 else f"cuda:{cuda.dlpack_device[1]}"
    stream, pinned = cuda.create_stream(), PinnedBuffer(cuda, 4000)
    tensor = torch.arange(1000, dtype=torch.float32, device=place)
    borrowed = borrow(tensor, None if place == "cpu" else cuda.handle(stream))
    cuda.copy_out(pinned.bytes, borrowed.address, stream)
    cuda.synchronize(stream)
    expected = np.arange(1000, dtype=np.float32)
    _require_equal(expected, pinned.view((1000,), np.dtype("float32")), "read from a torch tensor")
    buffer = DeviceBuffer(cuda, 4000)
    cuda.copy_in(buffer.address, expected, stream)
    cuda.synchronize(stream)
    seen = torch.utils.dlpack.from_dlpack(
        DeviceTensor(buffer.address, (1000,), expected.dtype, cuda.dlpack_device, buffer)
    )
    _require_equal(expected, seen.cpu().numpy(), "seen by torch")
    if seen.data_ptr() != buffer.address:
        raise CheckFailed("torch copied the memory instead of using it in place")
    return {"torch": torch.__version__}


def _require_equal(expected: Any, values: Any, what: str) -> None:
    wrong = int(np.count_nonzero(expected != values))
    if wrong:
        raise CheckFailed(f"{what}: {wrong} of {expected.size} values differ")
