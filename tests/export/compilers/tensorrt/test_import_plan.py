"""Engines of other programs: read, compared with the variant, checked and stored; TensorRT is a double here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_bundle
from building_machine import Level, Plan, layer, runtime_that, show
from host_cuda import HostCuda
from tensorrt_double import LISTS, FullTensorRT

from resnetrt.bundle import Bundle
from resnetrt.cli import run
from resnetrt.engine_record import EngineParity
from resnetrt.errors import BackendMissing, CheckFailed, UsageError
from resnetrt.export.engines.compile import compile_variant
from resnetrt.runtime import load
from resnetrt.runtime.cuda.device import Device, find_devices

LAYERS = [
    layer(name, kind, "Half")
    for name, kind in (("stem", "CaskConvolution"), ("conv", "CaskConvolution"), ("fc", "gemm"))
]


class Machine:
    """An sm86 with a TensorRT that reads the file content `plan` as the double of the network at `path`."""

    def __init__(self, full: FullTensorRT, path: Path) -> None:
        self.full, self.path, self.profiles = full, path, [(1, 4, 8)]
        self.cuda, self.level = HostCuda(), Level.NONE
        self.trusted: list[bool] = []  # of each plan that was read: may code in it run
        full.output_shape = (-1, 10)
        full.module.__dict__["Runtime"] = runtime_that(self._read)

    def _read(self, runtime: Any, blob: bytes) -> Plan | None:
        self.trusted.append(runtime.engine_host_code_allowed)
        if blob != b"plan":
            runtime.logger.log(1, "Error Code 1: Serialization (magic tag does not match)")
            return None
        plan = Plan(self.path, self.cuda, self.profiles)
        plan.text = json.dumps({"Layers": LAYERS})
        plan.hardware_compatibility_level = self.level
        return plan


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle.make_bundle(tmp_path / "tiny.bundle")


@pytest.fixture(params=LISTS, ids=lambda path: path.stem)
def machine(request: pytest.FixtureRequest, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(FullTensorRT(request.param), bundle.variant_file("fp32"))
    show(monkeypatch, made.full, made.cuda, Device(0, (8, 6)))
    with made.cuda.current():  # the first device is the current one without our doing
        yield made


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "r20.plan"
    path.write_bytes(b"plan")
    return path


def test_a_plan_is_checked_and_stored_as_any_engine(machine: Machine, bundle: Bundle, plan: Path):
    name = compile_variant(bundle, "fp32", "tensorrt", min_share=0, plan=plan)
    assert name == "tensorrt-fp32-sm86"
    record = bundle.read_engine(name)
    assert isinstance(record.parity, EngineParity)
    assert record.tools == {"tensorrt": machine.full.module.__version__}
    assert record.options == {
        "profiles": [{"input": "input", "min": [1, 3, 16, 16], "opt": [4, 3, 16, 16], "max": [8, 3, 16, 16]}]
    }
    assert record.detail_fields().inner("tensorrt").get("imported", str) == "r20.plan"
    assert record.audit.to_json()["share_by_precision"] == {"fp16": 1.0}
    assert machine.trusted == [False] * 2  # read for the import, and to be compared
    with load(bundle, name) as session:
        assert session.batch_limits == (1, 8)


def test_a_plan_in_another_precision_than_its_variant_is_refused(machine: Machine, bundle: Bundle, plan: Path):
    """The double's layers are FP16; trtexec with --fp16 on an FP32 file would be such an engine."""
    with pytest.raises(CheckFailed, match=r"at least 50\.0% of the multiply-accumulates in fp32, found fp16 100\.0%"):
        compile_variant(bundle, "fp32", "tensorrt", plan=plan)
    assert bundle.manifest.engines == {}


def test_what_a_plan_does_not_tell_is_stated(machine: Machine, bundle: Bundle, plan: Path):
    machine.level = Level.AMPERE_PLUS
    stated = {"version_compatible": True, "tf32": True}
    record = bundle.read_engine(compile_variant(bundle, "fp32", "tensorrt", None, stated, 0, plan))
    assert {"version_compatible", "tf32", "hardware_compatible", "profiles"} == set(record.options)
    assert record.options["hardware_compatible"] == "ampere_plus"
    assert machine.trusted == [True] * 2  # its own code may run, as that was stated
    assert record.arithmetic == "tf32"


def test_options_for_building_are_refused(machine: Machine, bundle: Bundle, plan: Path):
    with pytest.raises(UsageError, match="unknown option of tensorrt for a plan that is imported 'profiles'"):
        compile_variant(bundle, "fp32", "tensorrt", None, {"profiles": "8"}, plan=plan)


def test_a_plan_of_another_network_is_refused(machine: Machine, bundle: Bundle, plan: Path):
    machine.full.output_shape = (-1, 1000)
    with pytest.raises(UsageError, match=r"outputs: expected .*1000.* as in the variant, found"):
        compile_variant(bundle, "fp32", "tensorrt", plan=plan)
    assert bundle.manifest.engines == {}


def test_a_plan_that_takes_another_type_is_refused(machine: Machine, bundle: Bundle, plan: Path):
    machine.full.dtype = "HALF"  # of the variant; the plan takes float32
    with pytest.raises(UsageError, match=r"inputs: expected input float16 .* as in the variant, found input float32"):
        compile_variant(bundle, "fp32", "tensorrt", plan=plan)


def test_what_tensorrt_can_not_read_is_refused_with_its_reason(machine: Machine, bundle: Bundle, plan: Path):
    plan.write_bytes(b"something")
    with pytest.raises(UsageError, match=r"r20\.plan: TensorRT .* can't load it: Serialization \(magic tag"):
        compile_variant(bundle, "fp32", "tensorrt", plan=plan)


def test_other_backends_take_no_plan(bundle: Bundle, plan: Path):
    with pytest.raises(UsageError, match=r"--import: expected a backend of TensorRT \(tensorrt, tensorrt_rtx\), found"):
        compile_variant(bundle, "fp32", "onnxruntime", plan=plan)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_without_a_gpu_that_reads_it_the_reason_is_said(bundle: Bundle, plan: Path, backend: str):
    if find_devices()[0]:
        pytest.skip("there is a device")
    with pytest.raises(BackendMissing, match=r"r20\.plan: a plan can be read only by the GPU .*: no usable GPU: "):
        compile_variant(bundle, "fp32", backend, plan=plan)


def test_the_command(machine: Machine, bundle: Bundle, plan: Path, capsys: pytest.CaptureFixture[str]):
    argv = ["compile", str(bundle.path), "--backend", "tensorrt", "--import", str(plan), "--min-share", "0"]
    assert run([*argv, "--precision", "fp32"]) == 0
    assert capsys.readouterr().out.startswith("tensorrt-fp32-sm86: ")
    assert run([*argv, "--precision", "fp32,fp16"]) == 2
    assert "--import takes the plan of one variant" in capsys.readouterr().err
