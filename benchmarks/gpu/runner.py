"""GPU checks of the runner without TensorRT: batches, graphs, what is freed, and several threads and instances."""

import gc
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from resnetrt.benchmarks.gpu.kernel_engine import expected_logits, open_session, random_images
from resnetrt.benchmarks.gpu.kernels import Kernels
from resnetrt.errors import CheckFailed
from resnetrt.runtime.backends.tensorrt import TensorRtSession
from resnetrt.runtime.cuda import DeviceBuffer
from resnetrt.runtime.stream import Batcher, BatchOptions

_BATCHES = 32
_LAYERS = 60  # about as many kernels as a fused ResNet-50 has
_RUNS = 200
_CYCLES, _WARM_CYCLES = 20, 3
_LARGE = 1024  # images for which a session of the leak check has memory: more than a megabyte
_LOST_BYTES = 8 << 20  # CUDA gives memory back in pieces of 2 MiB
_THREADS = 4
_DEADLINE_S = 40.0
_MAKERS = {
    "allocate": "free",
    "allocate_host": "free_host",
    "create_stream": "destroy_stream",
    "create_event": "destroy_event",
    "capture": "destroy_graph",
}


def check_batches(kernels: Kernels) -> dict[str, Any]:
    """Every batch size from 1 to 32, in random order and twice, exactly as numpy; with graphs, or it fails."""
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(1, _BATCHES + 1), 2))
    with open_session(kernels, batches=(1, _BATCHES)) as session:
        for seed, count in enumerate(order.tolist()):
            _require_right(session, count, seed)
        _require_graphs(kernels, session)
        return {"batches": len(order), "graphs": session.graphs}


def check_graph_cost(kernels: Kernels) -> dict[str, Any]:
    """Milliseconds of a batch of one through sixty kernels: as a graph, and enqueued one by one. It compares nothing.

    `call` is the whole call by the host's clock, `device` the copies and kernels by CUDA events.
    """
    costs: dict[str, Any] = {"kernels": _LAYERS + 1}
    for name, cuda in (("graph", kernels.cuda), ("enqueued", _WithoutGraphs(kernels.cuda))):
        with open_session(kernels, cuda, layers=_LAYERS) as session:
            images = random_images(1, 0)
            _require_right(session, 1, 0, _LAYERS)
            if name == "graph":
                _require_graphs(kernels, session)
            elif session.graphs:
                raise CheckFailed("a graph was captured although the device was said to have none")
            times = []
            for _ in range(_RUNS):
                started = time.perf_counter()
                session.infer(images)
                times.append(1e3 * (time.perf_counter() - started))
            costs[f"{name}_call_median_ms"] = float(np.median(times))
            costs[f"{name}_device_median_ms"] = float(np.median(session.execution_ms(1, _RUNS)))
    return costs


def check_leaks(kernels: Kernels) -> dict[str, Any]:
    """Open, run and close sessions: all that was made is destroyed, and the device's free memory stays as it was."""
    counted = _Counting(kernels.cuda)

    def cycle() -> None:
        session = open_session(kernels, counted, batches=(1, _LARGE))
        for count in (1, 3, 8):
            _require_right(session, count, count)
        session.execution_ms(1, 2)
        staged = session.staging(2)
        staged[...] = 0
        session.infer(staged)
        session.close()

    for _ in range(_WARM_CYCLES):
        cycle()
    gc.collect()
    before = kernels.free_bytes()
    for _ in range(_CYCLES):
        cycle()
    gc.collect()
    lost = before - kernels.free_bytes()
    left = {maker: count for maker, count in counted.alive.items() if count}
    if left:
        raise CheckFailed(f"after {_CYCLES + _WARM_CYCLES} sessions were closed, not given back: {left}")
    if lost > _LOST_BYTES:
        raise CheckFailed(f"{_CYCLES} sessions were closed, and the device has {lost} bytes less")
    return {"sessions": _CYCLES, "lost_bytes": lost}


def check_capture_threads(kernels: Kernels) -> dict[str, Any]:
    """Four threads capture graphs of their own sessions while a fifth allocates and frees, by torch where it can."""
    sessions = [open_session(kernels) for _ in range(_THREADS)]
    errors: list[str] = []
    done = threading.Event()

    def work(index: int) -> None:
        for count in range(1, _BATCHES + 1):
            _require_right(sessions[index], count, 100 * index + count)

    def allocate() -> None:
        while not done.is_set():
            _allocate_and_free(kernels)

    threads = [threading.Thread(target=_noting, args=(errors, work, index), daemon=True) for index in range(_THREADS)]
    other = threading.Thread(target=_noting, args=(errors, allocate), daemon=True)
    for thread in (*threads, other):
        thread.start()
    _join(threads)
    done.set()
    _join([other])
    if errors:
        raise CheckFailed("; ".join(errors[:3]))
    for session in sessions:
        _require_graphs(kernels, session)
        session.close()
    return {"threads": _THREADS, "batches_each": _BATCHES, "allocates": _allocator(kernels)}


def check_free_in_capture(kernels: Kernels) -> dict[str, Any]:
    """Device memory is garbage when a capture begins, and the captured code makes more: collecting it kills it."""
    cuda = _GarbageBeforeCapture(kernels.cuda)

    def make_garbage() -> None:
        for _ in range(50):
            cycle: list[Any] = [{} for _ in range(20)]
            cycle.append(cycle)

    before = gc.get_threshold()
    try:
        with open_session(kernels, cuda, on_run=make_garbage) as session:
            for count in range(1, 9):
                _require_right(session, count, count)
            _require_graphs(kernels, session)
            return {"graphs": session.graphs}
    finally:
        gc.set_threshold(*before)


def check_batcher(kernels: Kernels) -> dict[str, Any]:
    """Two instances behind one batcher, asked by four threads: every answer is that of its own request."""
    sessions = [open_session(kernels, delay_ms=1.0) for _ in range(2)]
    errors: list[str] = []
    runs = Counter[int]()

    def count_run(_batch: Any, _outputs: Any, session: Any) -> None:
        runs[id(session)] += 1

    with Batcher(sessions, BatchOptions(max_queue_delay_microseconds=200), after=count_run) as batcher:
        stream = batcher.stream()

        def ask(index: int) -> None:
            for seed in range(50):
                images = random_images(1 + seed % 3, 1000 * index + seed)
                _require_equal(images, stream.infer(images)["logits"], f"request {seed} of thread {index}")

        threads = [threading.Thread(target=_noting, args=(errors, ask, index), daemon=True) for index in range(4)]
        for thread in threads:
            thread.start()
        _join(threads)
    if errors:
        raise CheckFailed("; ".join(errors[:3]))
    if len(runs) < len(sessions):
        raise CheckFailed(f"of {len(sessions)} instances only {len(runs)} ran a batch")
    return {"requests": 200, "batches_by_instance": sorted(runs.values())}


def _require_right(session: TensorRtSession, count: int, seed: int, layers: int = 4) -> None:
    images = random_images(count, seed)
    _require_equal(images, session.infer(images)["logits"], f"a batch of {count}", layers)


def _require_equal(images: Any, logits: Any, what: str, layers: int = 4) -> None:
    expected = expected_logits(images, layers)
    if logits.shape != expected.shape:
        raise CheckFailed(f"{what}: expected logits of shape {expected.shape}, found {logits.shape}")
    wrong = int(np.count_nonzero(logits != expected))
    if wrong:
        raise CheckFailed(f"{what}: {wrong} of {expected.size} logits differ from numpy's")


def _require_graphs(kernels: Kernels, session: TensorRtSession) -> None:
    if kernels.cuda.supports_graphs and not session.graphs:
        raise CheckFailed("no CUDA graph was captured: see the warning among the last lines")


class _WithoutGraphs:
    """A `Cuda` that says that it has no graphs."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self.supports_graphs = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cuda, name)


class _GarbageBeforeCapture:
    """A `Cuda` whose captures begin with device memory in garbage, and with a collector that runs at any chance.

    Whoever switched the collector off before is left alone.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cuda, name)

    def capture(self, stream: Any, work: Callable[[], object]) -> Any:
        gc.set_threshold(1_000_000)
        for _ in range(3):
            buffer: list[Any] = [DeviceBuffer(self._cuda, 4096)]
            buffer.append(buffer)
            del buffer

        def collecting() -> None:
            gc.set_threshold(10, 1, 1)
            work()

        return self._cuda.capture(stream, collecting)


class _Counting:
    """A `Cuda` that counts what was made and is not destroyed yet, by the name of the call that makes it."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self.alive: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._cuda, name)
        if name in _MAKERS:
            return self._counted(function, name, 1)
        maker = next((maker for maker, ender in _MAKERS.items() if ender == name), None)
        return function if maker is None else self._counted(function, maker, -1)

    def _counted(self, function: Callable[..., Any], maker: str, by: int) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            self.alive[maker] += by
            return result

        return call


def _allocator(kernels: Kernels) -> str:
    with suppress(ImportError):
        import torch

        if torch.cuda.is_available():
            return "torch"
    return kernels.cuda.name


def _allocate_and_free(kernels: Kernels) -> None:
    if _allocator(kernels) == "torch":
        import torch

        torch.empty(1 << 20, dtype=torch.uint8, device=f"cuda:{kernels.cuda.dlpack_device[1]}")
        torch.cuda.empty_cache()
    else:
        kernels.cuda.free(kernels.cuda.allocate(1 << 20))


def _noting(errors: list[str], work: Callable[..., None], *arguments: Any) -> None:
    try:
        work(*arguments)
    except Exception as error:
        errors.append(f"{type(error).__name__}: {error}")


def _join(threads: list[threading.Thread]) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            raise CheckFailed(f"a thread did not end within {_DEADLINE_S:.0f} s")
