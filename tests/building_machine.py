"""A machine whose TensorRT builds and runs engines: the builder is a double, and ONNX Runtime computes what it built.

A plan is the name of the ONNX file that was parsed, and its inspector tells one layer a convolution or product, in the
precision that the machine was told to compute in. So parity, audit, verdicts and the order of the work are real; what
TensorRT itself would do, and every time, is not.
"""

import enum
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import engine_double
import onnx
import pytest
from host_cuda import HostCuda
from tensorrt_double import FullTensorRT

from resnetrt.export.compilers.tensorrt import flavour
from resnetrt.runtime.backends import tensorrt, tensorrt_library
from resnetrt.runtime.cuda.device import Device

DataType = enum.Enum("DataType", ["FLOAT", "HALF"])
TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])
Level = enum.Enum("HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS"])
GPU = Device(0, (8, 6), "NVIDIA A10")


class Plan(engine_double.EngineDouble):
    """A deserialized plan, with what the runner does not need of it."""

    hardware_compatibility_level = Level.NONE
    text = json.dumps({"Layers": []})

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[super().get_tensor_dtype(name).name]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode[super().get_tensor_mode(name).name]

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _form: self.text)


def layer(name: str, kind: str, weights: str) -> dict[str, Any]:
    """The inspector's record of a layer that computes the ONNX node `name` with weights of that type."""
    output = {"Name": "y", "Dimensions": [8], "Format/Datatype": "Channel major FP16 format"}
    about = {"Name": name, "LayerType": kind, "Inputs": [], "Outputs": [output]}
    return about | {"Weights": {"Type": weights, "Count": 1}, "Metadata": f"[ONNX Layer: {name}]"}


def runtime_that(reads: Callable[[Any, bytes], Any]) -> type:
    """A `Runtime` whose engines `reads(runtime, blob)` gives."""

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, blob: bytes) -> Any:
            return reads(self, bytes(blob))

    return Runtime


def show(monkeypatch: pytest.MonkeyPatch, full: FullTensorRT, cuda: HostCuda, device: Device) -> None:
    """Let this process see `device`, its CUDA and this TensorRT."""
    for module in (flavour, tensorrt_library):
        monkeypatch.setattr(module, "find_devices", lambda: ((device,), ""))
    monkeypatch.setattr(tensorrt, "open_cuda", lambda *_, **__: cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", full.module)


class BuildingMachine:
    """`built` are the ONNX files that were built from; an engine of one whose name has `lies` computes in FP32."""

    def __init__(self, api: Path, folder: Path, shape: Sequence[int], lies: str = "none does") -> None:
        self.full, self.cuda, self.lies = FullTensorRT(api), HostCuda(), lies
        self.full.input_shape, self.full.output_shape = (-1, *shape), (-1, 10)
        self.built: list[str] = []
        self._folder = folder
        runtime = runtime_that(lambda _, blob: self._open(blob.decode()))
        self.full.module.__dict__.update(Runtime=runtime, OnnxParser=self._parser)
        self.full.module.__spec__ = ModuleSpec("tensorrt", None)  # torch asks whether the package is here

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this process see the machine, and no other flavour of TensorRT."""
        show(monkeypatch, self.full, self.cuda, GPU)
        for name in ("tensorrt_lean", "tensorrt_dispatch", "tensorrt_rtx"):
            monkeypatch.setitem(sys.modules, name, None)

    def _parser(self, _network: Any, _logger: Any) -> Any:
        parse: Callable[[str], bool] = self._parse
        return self.full.make("OnnxParser", parse_from_file=parse, num_errors=0)

    def _parse(self, path: str) -> bool:
        content = Path(path).read_bytes()
        plan = f"{Path(path).stem}-{hashlib.sha256(content).hexdigest()[:12]}"
        (self._folder / f"{plan}.onnx").write_bytes(content)
        self.built.append(Path(path).stem)
        self.full.plan, self.full.profiles = plan.encode(), []
        return True

    def _open(self, plan: str) -> Plan:
        path = self._folder / f"{plan}.onnx"
        opened = Plan(path, self.cuda, ((1, 1, 1), (1, 8, 32)))
        names = ("int8", "fp16") if self.lies not in plan else ()
        weights = next((kind for kind in names if plan.startswith(kind)), "fp32")
        types = {"int8": "Int8", "fp16": "Half", "fp32": "Float"}
        graph = onnx.load(path).graph
        work = [(node.name, node.op_type) for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
        kinds = {"Conv": "CaskConvolution", "Gemm": "gemm", "MatMul": "gemm"}
        opened.text = json.dumps({"Layers": [layer(name, kinds[op], types[weights]) for name, op in work]})
        return opened
