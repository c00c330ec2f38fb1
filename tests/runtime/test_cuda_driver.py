"""A driver that can't be used is said as that: which CUDA it serves, which is needed, and what helps.

The driver is a small library that answers as an old or broken one; it is loaded by the real cuda-bindings where that is
installed, else by ctypes.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cuda_driver_stub import ask, driver_folder

from resnetrt.cuda_driver import NO_DRIVER, dotted, remedies, start_trouble
from resnetrt.runtime.cuda import device
from resnetrt.runtime.cuda.device import find_devices

PRINT_REASON = "from resnetrt.runtime.cuda import find_devices; print(find_devices()[1])"
WITHOUT_BINDINGS = f"import sys; sys.modules['cuda.bindings.runtime'] = None; {PRINT_REASON}"
OLD = (
    "the NVIDIA driver is too old: it serves CUDA 12.2, cuda-bindings is for CUDA 13.5; update the NVIDIA driver to "
    "580 or newer (on a Jetson: a newer JetPack), or run: pip install 'resnetrt[gpu-cu12]'"
)


def runtime(status: int, name: str, driver: int, package: int) -> SimpleNamespace:
    """cuda.bindings.runtime as far as it is asked, with the answers that the real one gave over such a driver."""

    class Status(int):
        pass

    answer = Status(status)
    answer.name = name
    return SimpleNamespace(
        cudaGetDeviceCount=lambda: (answer, None),
        cudaDriverGetVersion=lambda: (Status(0), driver),
        cudaRuntimeGetVersion=lambda: (Status(0), package),
    )


@pytest.mark.parametrize(
    ("status", "name", "driver", "package", "expected"),
    [
        (35, "cudaErrorInsufficientDriver", 12020, 13050, OLD),
        (36, "cudaErrorCallRequiresNewerDriver", 12020, 13050, OLD),
        (35, "cudaErrorInsufficientDriver", 0, 13050, NO_DRIVER),
        (803, "cudaErrorSystemDriverMismatch", 13000, 13050, start_trouble(803)),
        (100, "cudaErrorNoDevice", 13000, 13050, "CUDA reports cudaErrorNoDevice"),
    ],
)
def test_what_cuda_bindings_answers_becomes_a_sentence(
    monkeypatch: pytest.MonkeyPatch, status: int, name: str, driver: int, package: int, expected: str
):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime(status, name, driver, package))
    assert find_devices() == ((), expected)


def test_a_driver_before_cuda_12_can_only_be_updated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime(35, "x", 11040, 12090))
    assert find_devices()[1].endswith("cuda-bindings is for CUDA 12.9; update the NVIDIA driver to 525 or newer")
    assert len(remedies("13.0", "11.4")) == 1


def test_cuda_bindings_that_raise_without_a_driver_are_no_fault_of_theirs(monkeypatch: pytest.MonkeyPatch):
    """As those of CUDA 12.8 do."""

    def fail() -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", SimpleNamespace(cudaGetDeviceCount=fail))
    monkeypatch.setattr(device, "_load_driver", lambda: None)
    assert find_devices() == ((), NO_DRIVER)


def test_the_real_cuda_bindings_over_an_old_driver(tmp_path: Path):
    bindings = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    needed = bindings.cudaRuntimeGetVersion()[1]
    old = needed // 1000 * 1000 - 980  # 13.5 and 12.2, 12.9 and 11.2
    reason = ask(PRINT_REASON, driver_folder(tmp_path, old))
    assert f"it serves CUDA {dotted(old)}, cuda-bindings is for CUDA {dotted(needed)}" in reason


@pytest.mark.parametrize(("init", "meaning"), [(803, "reboot"), (804, "update it"), (34, "stub")])
def test_a_driver_that_does_not_start_says_why(tmp_path: Path, init: int, meaning: str):
    reason = ask(WITHOUT_BINDINGS, driver_folder(tmp_path, 13000, init))
    assert reason == start_trouble(init)
    assert meaning in reason


def test_an_engine_over_an_old_driver_is_not_refused_for_want_of_a_gpu(tmp_path: Path):
    """What users see: `verify` and `compile` say the driver's trouble, not that there is no GPU."""
    code = (
        "import sys; sys.modules['cuda.bindings.runtime'] = None\n"
        "from resnetrt.export.compilers.tensorrt.flavour import RTX, obstacle\n"
        "print(obstacle(RTX, 'portable'))"
    )
    assert ask(code, driver_folder(tmp_path, 13000, 803)) == f"no usable GPU: {start_trouble(803)}"


def test_a_forked_process_is_told_that_cuda_was_started_before(tmp_path: Path):
    """Else it hears `initialization error`, or hangs."""
    code = (
        "import os, sys; sys.modules['cuda.bindings.runtime'] = None\n"
        "from resnetrt.runtime.cuda import find_devices\n"
        "assert len(find_devices()[0]) == 1\n"
        "if os.fork() == 0:\n"
        "    print(*find_devices(), flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()"
    )
    told = ask(code, driver_folder(tmp_path, 13000, devices=1))
    assert told.startswith(
        "() CUDA was started before this process was forked, and can't be used in it; start processes"
    )
