"""GPU checks of tensors that are used where they lie: order between streams, alignment, who may overwrite what."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from resnetrt.benchmarks.gpu.kernel_engine import IMAGE, expected_logits, open_session, random_images
from resnetrt.benchmarks.gpu.kernels import CLASSES, Kernels
from resnetrt.errors import CheckFailed
from resnetrt.preprocess import FloatArray
from resnetrt.runtime.cuda import DeviceBuffer, PinnedBuffer
from resnetrt.runtime.cuda.dlpack import DeviceTensor
from resnetrt.runtime.cuda.protocol import Stream

_LATE_MS = 50.0  # longer than any call here takes


def check_late_input(kernels: Kernels) -> dict[str, Any]:
    """A tensor that another stream is still going to write: the runner must wait for it, as `__dlpack__` arranges."""
    images, stale = random_images(5, 1), random_images(5, 2)
    memory, source = _on_device(kernels, stale), _pinned(kernels, images)
    with open_session(kernels) as session, _stream(kernels) as writer:
        session.infer(stale)  # contexts and graphs are made before
        kernels.spin(_LATE_MS, writer)
        kernels.cuda.copy_in(memory.address, source, writer)
        outputs = session.infer_dlpack(_Written(kernels, memory, images.shape, writer))
        _require(expected_logits(images), _read(kernels, outputs["logits"]), "a tensor that another stream writes")
    return {"late_ms": _LATE_MS}


def check_unaligned_input(kernels: Kernels) -> dict[str, Any]:
    """Slices of a batch, whose addresses are no multiples of 256 bytes; the batch itself must stay as it is."""
    images = random_images(9, 3)
    memory = _on_device(kernels, images)
    size_bytes = 4 * int(np.prod(IMAGE))
    offsets = {memory.address + size_bytes * start: start for start in range(5)}
    with open_session(kernels) as session:
        for address, start in offsets.items():
            tensor = _tensor(kernels, address, (4, *IMAGE), memory)
            logits = _read(kernels, session.infer_dlpack(tensor)["logits"])
            _require(expected_logits(images[start : start + 4]), logits, f"a slice that begins at image {start}")
    _require(images, _read(kernels, _tensor(kernels, memory.address, images.shape, memory)), "the batch afterwards")
    unaligned = sum(address % 256 != 0 for address in offsets)
    if not unaligned:
        raise CheckFailed("every slice was aligned: nothing was checked")
    return {"unaligned_slices": unaligned}


def check_held_outputs(kernels: Kernels) -> dict[str, Any]:
    """Outputs that the caller holds stay as they are in later calls, and after the session is closed."""
    batches = [random_images(4, seed) for seed in range(6)]
    session = open_session(kernels)
    held = [session.infer_dlpack(_tensor_of(kernels, batch))["logits"] for batch in batches]
    for batch in batches:  # by the other way, through the session's own memory
        session.infer(batch[::-1].copy())
    session.close()
    for batch, output in zip(batches, held, strict=True):
        _require(expected_logits(batch), _read(kernels, output), "an output that is held")
    return {"held": len(held)}


def check_late_reader(kernels: Kernels) -> dict[str, Any]:
    """A stream that still reads an output which nobody holds any more: the next call must not overwrite it before."""
    cuda = kernels.cuda
    first, second = random_images(4, 5), random_images(4, 6)
    size_bytes = 4 * 4 * CLASSES
    target = DeviceBuffer(cuda, size_bytes)
    with open_session(kernels) as session, _stream(kernels) as reader:
        for _ in range(3):
            inputs = _tensor_of(kernels, first), _tensor_of(kernels, second)
            output = session.infer_dlpack(inputs[0])["logits"]
            kernels.spin(_LATE_MS, reader)
            cuda.copy_on_device(target.address, output.address, size_bytes, reader)
            del output
            again = session.infer_dlpack(inputs[1])["logits"]
            cuda.synchronize(reader)
            read = _read(kernels, _tensor(kernels, target.address, (4, CLASSES), target))
            _require(expected_logits(first), read, "what another stream read of an output")
            _require(expected_logits(second), _read(kernels, again), "the next output")
            del again
    return {"late_ms": _LATE_MS}


def check_torch_order() -> dict[str, Any]:
    """The same with torch's own streams: a batch that torch computes late, and outputs that torch reads late."""
    import torch

    from resnetrt.benchmarks.gpu.kernels import open_kernels

    kernels = open_kernels()
    images = random_images(6, 7)
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with open_session(kernels) as session:
        session.infer(images)
        for _ in range(5):
            with torch.cuda.stream(side):
                tensor = torch.zeros(images.shape, device="cuda")
                torch.cuda._sleep(100_000_000)  # type: ignore[no-untyped-call]
                tensor += torch.from_numpy(images).to("cuda", non_blocking=True)
                outputs = session.infer_dlpack(tensor)
                logits = torch.utils.dlpack.from_dlpack(outputs["logits"]).clone()
                del outputs
            side.synchronize()
            _require(expected_logits(images), logits.cpu().numpy(), "a batch that torch computes in another stream")
    return {"torch": torch.__version__}


class _Written:
    """A tensor that the stream `writer` writes; a consumer's stream waits for that, as the protocol demands."""

    def __init__(self, kernels: Kernels, memory: DeviceBuffer, shape: tuple[int, ...], writer: Stream) -> None:
        self._kernels, self._writer = kernels, writer
        self._tensor = _tensor(kernels, memory.address, shape, memory)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._tensor.__dlpack_device__()

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> Any:
        if stream is None:
            self._kernels.cuda.synchronize(self._writer)
        else:
            self._kernels.let_wait(stream, self._writer)
        return self._tensor.__dlpack__(**options)


@contextmanager
def _stream(kernels: Kernels) -> Iterator[Stream]:
    """A stream that is waited for in the end, also when a check fails: what it uses is freed next."""
    stream = kernels.cuda.create_stream()
    try:
        yield stream
    finally:
        kernels.cuda.synchronize(stream)
        kernels.cuda.destroy_stream(stream)


def _tensor(kernels: Kernels, address: int, shape: tuple[int, ...], owner: DeviceBuffer) -> DeviceTensor:
    return DeviceTensor(address, shape, np.dtype(np.float32), kernels.cuda.dlpack_device, owner)


def _tensor_of(kernels: Kernels, images: FloatArray) -> DeviceTensor:
    memory = _on_device(kernels, images)
    return _tensor(kernels, memory.address, images.shape, memory)


def _pinned(kernels: Kernels, values: FloatArray) -> FloatArray:
    array: FloatArray = PinnedBuffer(kernels.cuda, values.nbytes).view(values.shape, values.dtype)
    array[...] = values
    return array


def _on_device(kernels: Kernels, values: FloatArray) -> DeviceBuffer:
    buffer = DeviceBuffer(kernels.cuda, values.nbytes)
    with _stream(kernels) as stream:
        kernels.cuda.copy_in(buffer.address, values, stream)
    return buffer


def _read(kernels: Kernels, tensor: DeviceTensor) -> FloatArray:
    """The values now, without waiting for any other stream: an output is said to be complete."""
    values = np.full(tensor.shape, np.nan, np.float32)
    with _stream(kernels) as stream:
        kernels.cuda.copy_out(values, tensor.address, stream)
    return values


def _require(expected: FloatArray, values: FloatArray, what: str) -> None:
    wrong = int(np.count_nonzero(expected != values))
    if wrong:
        raise CheckFailed(f"{what}: {wrong} of {expected.size} values differ from numpy's")
