"""The kernels' source is compiled where a compiler is; none needs a GPU."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from host_kernels import HostKernels

from resnetrt.benchmarks.gpu import kernels, runner
from resnetrt.benchmarks.gpu.catalog import catalog
from resnetrt.benchmarks.gpu.run import GpuRun
from resnetrt.errors import EnvironmentFault
from resnetrt.runtime.cuda import Device

TARGETS = ("sm75", "sm90", "sm120")


@pytest.mark.parametrize("target", TARGETS)
def test_nvcc_compiles_them(tmp_path: Path, target: str):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc")
    source, out = tmp_path / "kernels.cu", tmp_path / "kernels.cubin"
    source.write_text(kernels._SOURCE)
    architecture = target.replace("sm", "sm_")
    command = [nvcc, "-cubin", f"-arch={architecture}", "-Werror", "all-warnings", "-o", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code = out.read_bytes()
    assert all(name in code for name in (b"add_one", b"classify", b"spin", b"write_to"))


def test_nvrtc_compiles_them(monkeypatch: pytest.MonkeyPatch):
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    try:
        nvrtc.nvrtcVersion()
    except Exception as error:
        pytest.skip(f"the bindings are here, the library is not: {error}")
    for target in TARGETS:
        assert kernels.compile_cubin(nvrtc, target).startswith(b"\x7fELF")
    monkeypatch.setattr(kernels, "_SOURCE", "a planted mistake")
    with pytest.raises(EnvironmentFault, match="NVRTC_ERROR_COMPILATION for sm90"):
        kernels.compile_cubin(nvrtc, "sm90")


class DriverDouble:
    """`cuda.bindings` over host kernels: a launch reads the parameters from where the driver would."""

    def __init__(self, host: HostKernels) -> None:
        self.host = host
        self.launched: list[str] = []
        self.driver = ModuleType("cuda.bindings.driver")
        self.runtime = ModuleType("cuda.bindings.runtime")
        self.nvrtc = ModuleType("cuda.bindings.nvrtc")
        self.set_devices: list[int] = []
        self.driver.__dict__.update(
            cuModuleLoadData=lambda cubin: (0, cubin),
            cuModuleGetFunction=lambda _module, name: (0, name.decode()),
            cuLaunchKernel=self.launch,
        )
        self.runtime.__dict__.update(
            cudaSetDevice=lambda device: (self.set_devices.append(device) or 0,),
            cudaEventCreate=lambda: (0, 1),
            cudaMemGetInfo=lambda: (0, host.free_bytes(), 1 << 30),
        )
        self.nvrtc.__dict__.update(
            nvrtcCreateProgram=lambda *_: (0, 1),
            nvrtcCompileProgram=lambda *_: (0,),
            nvrtcGetCUBINSize=lambda _: (0, 4),
            nvrtcGetCUBIN=lambda _program, _cubin: (0,),
        )

    def launch(self, function: str, *rest: int) -> tuple[int]:
        grid, block, shared, stream, places, extra = rest[:3], rest[3:6], rest[6], rest[7], rest[8], rest[9]
        assert (grid[1:], block[1:], shared, extra) == ((1, 1), (1, 1), 0, 0)
        assert 1 <= block[0] <= 1024
        count = {"add_one": 3, "classify": 3, "spin": 1, "write_to": 1}[function]
        pointers = (ctypes.c_void_p * count).from_address(places)
        values = [ctypes.c_int64.from_address(pointer or 0).value for pointer in pointers]
        self.launched.append(function)
        if function == "add_one":
            assert (grid[0] - 1) * block[0] < values[2] <= grid[0] * block[0]  # each value has one thread
            self.host.add_one(*values, stream)
        elif function == "classify":
            assert block[0] == kernels.CLASSES
            self.host.classify(values[0], values[1], grid[0], values[2], stream)
        elif function == "write_to":
            assert values == [kernels.NOWHERE]
            self.host.write_nowhere(stream)
        return (0,)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> DriverDouble:
    made = DriverDouble(HostKernels())
    for name in ("driver", "runtime", "nvrtc"):
        monkeypatch.setitem(sys.modules, f"cuda.bindings.{name}", getattr(made, name))
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr("resnetrt.runtime.cuda.find_devices", lambda: ((Device(0, (9, 0)),), ""))
    return made


def test_the_runner_over_launches_of_the_driver(double: DriverDouble):
    assert runner.check_batches(kernels.NvrtcKernels(double.host.cuda))["batches"] == 64
    assert {"add_one", "classify"} <= set(double.launched)
    assert set(double.set_devices) == {0}


def test_every_thread_enters_the_context(double: DriverDouble):
    runner.check_batcher(kernels.NvrtcKernels(double.host.cuda))
    assert len(double.set_devices) == 3  # this thread, and the two of the batcher
    assert "spin" in double.launched


def test_kernels_that_were_compiled_beforehand_need_no_nvrtc(
    tmp_path: Path, double: DriverDouble, monkeypatch: pytest.MonkeyPatch
):
    loaded: list[bytes] = []
    double.driver.__dict__["cuModuleLoadData"] = lambda cubin: (loaded.append(cubin) or 0, cubin)
    (tmp_path / "kernels-sm90.cubin").write_bytes(b"for this GPU")
    (tmp_path / "kernels-sm86.cubin").write_bytes(b"for another")
    kernels.NvrtcKernels(double.host.cuda, tmp_path)
    assert loaded == [b"for this GPU"]
    (tmp_path / "kernels-sm90.cubin").unlink()
    kernels.NvrtcKernels(double.host.cuda, tmp_path)
    assert loaded[1:] == [b"    "]  # of the double of NVRTC


def test_prepared_kernels_are_those_of_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check = next(check for check in catalog() if check.name == "runner: 32 batch sizes")
    run = GpuRun(tmp_path, tmp_path, 1.0)
    monkeypatch.setattr(run.needs, "why_not", lambda need: f"no {need}" if need == "nvrtc" else "")
    assert run.why_not(check) == "no nvrtc"
    if not kernels.store_cubins(tmp_path):
        pytest.skip("no nvcc")
    assert {path.name for path in tmp_path.glob("kernels*")} >= {f"kernels-{target}.cubin" for target in TARGETS}
    assert not (tmp_path / "kernels.cu").exists()
    assert run.why_not(check) == ""


def test_a_launch_that_fails_says_so(double: DriverDouble):
    class Status(int):
        name = "CUDA_ERROR_INVALID_VALUE"

    library = kernels.NvrtcKernels(double.host.cuda)
    double.driver.__dict__["cuLaunchKernel"] = lambda *_: (Status(1),)
    with pytest.raises(EnvironmentFault, match="CUDA: cuLaunchKernel failed: CUDA_ERROR_INVALID_VALUE"):
        library.spin(1.0, 2)
