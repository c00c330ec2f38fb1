"""GPU checks of what must go wrong in a good way: a lost context, no memory, a fork, plans that are not ours."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from resnetrt.benchmarks.gpu.kernel_engine import expected_logits, open_session, random_images
from resnetrt.benchmarks.gpu.kernels import Kernels
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import BundleError, CheckFailed, EnvironmentFault, ResnetrtError
from resnetrt.runtime.cuda import DeviceBuffer

_FORK_S = 20.0
_TOO_MUCH = 1 << 50  # bytes


def check_sticky_error(kernels: Kernels) -> dict[str, Any]:
    """After a kernel lost the context every call says so, the session can be closed, and the process ends itself."""
    session = open_session(kernels)
    images = random_images(2, 0)
    _require_logits(images, session.infer(images)["logits"], "before the fault")
    stream = kernels.cuda.create_stream()
    kernels.write_nowhere(kernels.cuda.handle(stream))
    said = [_refusal("waiting for the stream", lambda: kernels.cuda.synchronize(stream))]
    calls = ("the first call after it", "the second call after it")
    said += [_refusal(call, lambda: session.infer(images)) for call in calls]
    try:
        session.close()
        said.append("closed")
    except EnvironmentFault as error:
        said.append(f"close: {error}")
    return {"said": said}


def check_out_of_memory(kernels: Kernels) -> dict[str, Any]:
    """An allocation that is too large is one error, and the session goes on as before."""
    images = random_images(3, 0)
    with open_session(kernels) as session:
        session.infer(images)
        said = _refusal(f"an allocation of {_TOO_MUCH} bytes", lambda: DeviceBuffer(kernels.cuda, _TOO_MUCH))
        if "memory" not in said.lower():
            raise CheckFailed(f"expected an error that says that memory is missing, found: {said}")
        for count in (3, 5):
            batch = random_images(count, count)
            _require_logits(batch, session.infer(batch)["logits"], "after an allocation that failed")
    return {"said": said}


def check_fork(kernels: Kernels) -> dict[str, Any]:
    """A process forked from one that uses the GPU: its calls fail with words, soon, and the first process goes on."""
    images = random_images(2, 0)
    with open_session(kernels) as session:
        session.infer(images)
        said = {
            "the session": _in_fork(lambda: session.infer(images)),
            "a new session": _in_fork(lambda: open_session(kernels).infer(images)),
        }
        _require_logits(images, session.infer(images)["logits"], "after a fork")
    for what, words in said.items():
        if not words.startswith("refused: "):
            raise CheckFailed(f"{what} in a forked process: expected an error that says why, found: {words}")
    return {"said": said}


def check_foreign_plans(module: Any) -> dict[str, Any]:
    """What is no plan of this library, or only half of one, is refused with a reason; nothing crashes.

    `module` is the library, or its name.
    """
    import importlib

    from resnetrt.runtime.backends.tensorrt_library import deserialize

    library = importlib.import_module(module) if isinstance(module, str) else module
    record = EngineRecord("foreign", "tensorrt", "fp16", "gpu", options={"version_compatible": True})
    noise = np.random.default_rng(0).integers(0, 256, 4096, np.uint8).tobytes()
    blobs = {"empty": b"", "text": b"no plan at all", "noise": noise, "another magic": b"ftrt" + noise}
    said = {}
    for name, blob in blobs.items():
        try:
            deserialize(library, blob, f"the plan {name!r}", record)
        except BundleError as error:
            said[name] = str(error)
        else:
            raise CheckFailed(f"{library.__name__} {library.__version__} took {name} for a plan")
    return {"version": str(library.__version__), "said": said}


def _refusal(what: str, call: Callable[[], object]) -> str:
    """The words of the error that `call` must raise."""
    try:
        call()
    except EnvironmentFault as error:
        return str(error)
    raise CheckFailed(f"{what}: expected an error, found none")


def _in_fork(call: Callable[[], object]) -> str:
    """What `call` comes to in a forked process: `refused: ...`, `worked`, how it died, or that it hung."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            call()
            words = "worked"
        except ResnetrtError as error:
            words = f"refused: {error}"
        except BaseException as error:
            words = f"{type(error).__name__}: {error}"
        os.write(write_end, words.encode()[:4000])
        os._exit(0)
    os.close(write_end)
    try:
        return _wait(child) or os.read(read_end, 4000).decode(errors="replace")
    finally:
        os.close(read_end)


def _wait(child: int) -> str:
    """Wait for a forked process, which is killed if it does not end; empty if it ended with 0."""
    deadline = time.monotonic() + _FORK_S
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return f"its process ended with {code}" if code else ""
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"it hung for {_FORK_S:.0f} s"


def _require_logits(images: Any, logits: Any, what: str) -> None:
    if not np.array_equal(logits, expected_logits(images)):
        raise CheckFailed(f"{what}: logits differ from numpy's")
