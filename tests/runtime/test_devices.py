"""Which GPU of several: chosen by number, UUID or MIG instance, and what is said of an engine from another one."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cuda_driver_stub import ask, driver_folder
from engine_double import VERSION, fake_tensorrt
from host_cuda import HostCuda

from resnetrt.bundle import Bundle
from resnetrt.cuda_driver import driver_version
from resnetrt.engine_record import BuiltOn, BuiltOnGpu, EngineRecord
from resnetrt.errors import BundleError, UsageError
from resnetrt.runtime.backends import onnxruntime, tensorrt, tensorrt_library
from resnetrt.runtime.cuda import Device, choose_device, device, find_devices

A10, A6000, L4 = (
    Device(0, (8, 6), "NVIDIA A10", "0a000000-1111-2222-3333-444444444444", "550.54"),
    Device(1, (8, 6), "NVIDIA RTX A6000", "0a000000-5555-2222-3333-444444444444", "550.54"),
    Device(2, (8, 9), "NVIDIA L4", "14000000-1111-2222-3333-444444444444", "550.54"),
)
ALL = (A10, A6000, L4)
INSTANCE = "MIG-77777777-1111-2222-3333-444444444444"


def record(backend: str = "tensorrt", target: str = "sm86", **options: Any) -> EngineRecord:
    about = EngineRecord(f"{backend}-fp32-{target}", backend, "fp32", target, tools={backend: VERSION})
    return replace(about, options=options)


class TestChoice:
    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            (None, A10),
            ("", A10),
            ("0", A10),
            ("2", L4),
            (f"GPU-{A6000.uuid}", A6000),
            ("GPU-14", L4),  # the beginning is enough, as for CUDA_VISIBLE_DEVICES
        ],
    )
    def test_by_number_and_uuid(self, wanted: str | None, expected: Device):
        assert choose_device(ALL, wanted, "x") == expected

    @pytest.mark.parametrize("wanted", ["3", "-1", "GPU-0a", "GPU-ff", "NVIDIA L4", "L4"])
    def test_what_is_not_there_or_not_only_one_is_refused(self, wanted: str):
        with pytest.raises(
            UsageError, match=r"^x: expected one of device 0 \(NVIDIA A10, sm86\) GPU-0a.*nvidia-smi -L$"
        ):
            choose_device(ALL, wanted, "x")

    def test_a_device_without_a_known_uuid_is_not_any_uuid(self):
        with pytest.raises(UsageError):
            choose_device((Device(0, (8, 6)),), "GPU-", "x")

    def test_a_mig_instance_is_the_only_device_of_a_process_started_with_it(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        with pytest.raises(UsageError, match=f"x: expected CUDA_VISIBLE_DEVICES={INSTANCE}, .* found nothing; start"):
            choose_device((A10,), INSTANCE, "x")
        own = replace(A10, uuid=INSTANCE.removeprefix("MIG-"))
        assert choose_device((own,), INSTANCE, "x") == own
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", INSTANCE)
        assert choose_device((A10,), INSTANCE, "x") == A10


class TestFound:
    def test_name_and_uuid_from_cuda_bindings(self, monkeypatch: pytest.MonkeyPatch):
        uuid = SimpleNamespace(bytes=bytes(range(16)))
        runtime = SimpleNamespace(
            cudaGetDeviceCount=lambda: (0, 2),
            cudaDeviceAttr=lambda key: key,
            cudaDeviceGetAttribute=lambda key, index: (0, {75: 8, 76: 9}[key]),
            cudaGetDeviceProperties=lambda index: (index, SimpleNamespace(name=b"NVIDIA L4\0\0", uuid=uuid)),
        )
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
        known, unknown = find_devices()[0]
        expected = Device(0, (8, 9), "NVIDIA L4", "00010203-0405-0607-0809-0a0b0c0d0e0f", driver_version())
        assert (known, unknown) == (expected, Device(1, (8, 9), driver=driver_version()))

    def test_name_and_uuid_from_the_driver_itself(self, tmp_path: Path):
        code = (
            "import sys; sys.modules['cuda.bindings.runtime'] = None\n"
            "from resnetrt.runtime.cuda import find_devices\n"
            "print(*((item.index, item.target, item.name, item.uuid) for item in find_devices()[0]))"
        )
        second = "(1, 'sm86', 'GPU of a stub', '01010101-0101-0101-0101-010101010101')"
        assert ask(code, driver_folder(tmp_path, 13000, devices=2)).endswith(second)

    def test_the_drivers_version_is_that_of_its_kernel_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("resnetrt.cuda_driver._MODULE", tmp_path / "version")
        assert driver_version() == ""
        (tmp_path / "version").write_text("580.95.05\n")
        assert driver_version() == "580.95.05"


Load = Callable[..., None]


@pytest.fixture
def opened() -> list[int]:
    return []


@pytest.fixture
def load_on(
    monkeypatch: pytest.MonkeyPatch, shared_bundle: Bundle, tmp_path: Path, opened: list[int]
) -> Callable[..., None]:
    """Load an engine of full TensorRT or RTX on a machine with three GPUs; the device that it took is in `opened`."""
    cuda = HostCuda()

    def open_cuda(_: str | None, index: int) -> HostCuda:
        opened.append(index)
        return cuda

    monkeypatch.setattr(tensorrt_library, "find_devices", lambda: (ALL, ""))
    monkeypatch.setattr(tensorrt, "open_cuda", open_cuda)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, fake_tensorrt(shared_bundle.variant_file("fp32"), cuda))
    (tmp_path / "m.engine").write_bytes(b"engine")

    def run(engine: EngineRecord, wanted: str | None = None) -> None:
        tensorrt.load(tmp_path / "m.engine", engine, 1, wanted).close()

    return run


def built(name: str, driver: str, **changes: Any) -> EngineRecord:
    return replace(record(**changes), built_on=BuiltOn("a CPU", "x86_64", (), BuiltOnGpu(name, driver)))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [item.getMessage() for item in caplog.records if item.levelno == logging.WARNING]


class TestLoading:
    def test_the_device_is_the_callers_else_the_settings_else_the_first(
        self, load_on: Load, opened: list[int], monkeypatch: pytest.MonkeyPatch
    ):
        load_on(record())
        monkeypatch.setenv("RESNETRT_DEVICE", "1")
        load_on(record())
        load_on(record(target="sm89"), f"GPU-{L4.uuid}")
        assert opened == [0, 1, 2]

    def test_the_engine_must_fit_that_device(self, load_on: Load):
        with pytest.raises(BundleError, match=r"built for compute capability 8\.6, this GPU has 8\.9"):
            load_on(record(), "2")
        with pytest.raises(UsageError, match=r"engine tensorrt-fp32-sm86: expected one of .*, found device '7' asked"):
            load_on(record(), "7")

    @pytest.mark.parametrize(
        ("name", "driver"), [("NVIDIA A40", "550.54"), ("NVIDIA A10", "535.1"), ("NVIDIA A40", "535.1")]
    )
    def test_another_model_or_driver_is_one_sentence(
        self, load_on: Load, caplog: pytest.LogCaptureFixture, name: str, driver: str
    ):
        load_on(built(name, driver))
        assert warnings(caplog) == [
            f"engine tensorrt-fp32-sm86: built on {name} with driver {driver}, this is NVIDIA A10 with driver 550.54: "
            "it may be slower than one built here, and TensorRT does not promise that it runs; compile it again: "
            "resnetrt compile BUNDLE --backend tensorrt --precision fp32"
        ]

    @pytest.mark.parametrize(
        "engine",
        [
            record(),  # of before sidecars said it
            built("NVIDIA A10", "550.54"),
            built("NVIDIA A40", "550.54", hardware_compatible="ampere_plus"),
            built("NVIDIA A10", ""),
            built("", "550.54"),
            built("NVIDIA A40", "535.1", backend="tensorrt_rtx"),  # compiles its kernels where it runs
        ],
    )
    def test_nothing_is_said_of_the_same_or_the_unknown(
        self, load_on: Load, caplog: pytest.LogCaptureFixture, engine: EngineRecord
    ):
        load_on(engine)
        assert warnings(caplog) == []


def test_onnxruntime_takes_the_device_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "find_devices", lambda: (ALL, ""))
    assert [onnxruntime.device_index(wanted) for wanted in ("GPU-14", None)] == [2, 0]
    monkeypatch.setenv("RESNETRT_DEVICE", "1")
    assert onnxruntime.device_index(None) == 1


def test_every_name_that_is_asked_of_cuda_bindings_exists():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    assert {"name", "uuid"} <= set(dir(runtime.cudaDeviceProp()))
    assert callable(runtime.cudaGetDeviceProperties)
    assert device.find_devices()[0] is not None
