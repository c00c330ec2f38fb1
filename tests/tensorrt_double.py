"""Full TensorRT, which can't be installed without a GPU, as a module with exactly the names of one version's API list.

It records what the builder is asked and knows nothing of TensorRT's behaviour; reading or setting a name that the
version does not have raises `AttributeError`, as its Python bindings do.
"""

import enum
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

LISTS = sorted(
    (Path(__file__).parent / "export/compilers/tensorrt/tensorrt_api").glob("tensorrt-1*.json")
)  # not TensorRT-RTX's
_ENUMS = (
    "BuilderFlag", "DeviceType", "ExecutionContextAllocationStrategy", "HardwareCompatibilityLevel",
    "LayerInformationFormat", "MemoryPoolType", "NetworkDefinitionCreationFlag", "ProfilingVerbosity",
)  # fmt: skip


class Strict:
    """An object of the TensorRT class `kind`, with the attributes that the version has, as far as they are `given`."""

    def __init__(self, names: set[str], kind: str, **given: Any) -> None:
        self.__dict__.update(_names=names, _kind=kind, _given={})
        for name, value in given.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        self._check(name)
        return self._given[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__class__":  # as a layer of the bindings becomes one of its kind, if it is that kind
            assert value.kind == self._given["type"].name, f"{value.kind}: it is a {self._given['type'].name}"
            self.__dict__.update(_names=value.names, _kind=value.__name__, _given=self._given | value.members)
            return
        self._check(name)
        self._given[name] = value

    def _check(self, name: str) -> None:
        if name not in self._names:
            raise AttributeError(f"{self._kind} has no attribute {name}")


def _with_formats(text: str, profile: int) -> str:
    """The inspector's text, in which only layers of that profile tell their formats."""
    try:
        records = json.loads(text)["Layers"]
    except (ValueError, TypeError):
        return text
    for item in records:
        own = re.search(r"\[profile (\d+)\]", json.dumps(item))
        if isinstance(item, dict) and int(own[1] if own else 0) != profile:
            for tensor in (*item["Inputs"], *item["Outputs"]):
                tensor["Format/Datatype"] = "N/A due to dynamic shapes"
    return json.dumps({"Layers": records})


class FullTensorRT:
    """The `module`, and what happened: `config` as the build left it, its `flags`, `profiles`, `memory` and `logged`.

    `inspector_text` is what the engine inspector tells; `errors` are logged while configuring; the flag `refused` is
    not taken; `dtype`, `input_shape` and `output_shape` are those of the network; `building` is called during the
    build, which adds `timing` to a cache of `device`; with `plan` None the build fails, with `loads` False the engine
    does not load.
    """

    plan: bytes | None = b"plan"
    loads = True
    device = b"sm86"
    timing = b"a"
    building: Callable[[], None] = staticmethod(lambda: None)
    refused = ""
    dtype = "FLOAT"
    input_shape: tuple[int, ...] = (-1, 3, 16, 16)
    output_shape: tuple[int, ...] = (-1, 16, 16, 16)
    inspector_text = '{"Layers": []}'
    errors: tuple[str, ...] = ()

    def __init__(self, api: Path) -> None:
        self.api = api
        content = json.loads(api.read_text())
        self._api = {name: set(members.split()) for name, members in content["names"].items()}
        self.flags: set[Any] = set()
        self.profiles: list[tuple[Any, ...]] = []
        self.memory: dict[Any, int] = {}
        self.cache_read: bytes | None = None
        self.shapes: list[tuple[str, tuple[int, ...]]] = []
        self.inspected_with: Any = None
        self.config: Any = None
        self.cache: Strict | None = None
        self._kept: list[Strict] = []  # so that no id is used again
        self._entries: dict[int, set[bytes]] = {}
        self._devices: dict[int, bytes] = {}
        self._states: dict[int, tuple[Strict, dict[str, Any]]] = {}
        self.kernel = np.ones((16, 8, 3, 3), np.float16)  # of the convolution
        self.module = ModuleType("tensorrt")
        self.module.__dict__.update(self._module_members(content["version"]))

    def make(self, kind: str, **given: Any) -> Strict:
        return Strict(self._api[kind], kind, **given)

    def _module_members(self, version: str) -> dict[str, Any]:
        enums = {name: enum.IntEnum(name, sorted(self._api[name])) for name in _ENUMS}  # type: ignore[misc]
        self.module_flags = enums["BuilderFlag"]
        self.flags.add(enums["BuilderFlag"]["TF32"])  # on unless it is cleared
        classes = {name: type(name, (), {}) for name in ("ILogger", "IProgressMonitor")}
        convolution = {"kernel": self.kernel.ravel(), "num_output_maps": 16, "kernel_size_nd": (3, 3)}
        names = self._api["ILayer"] | self._api["IConvolutionLayer"]
        classes["IConvolutionLayer"] = type(
            "IConvolutionLayer", (), {"kind": "CONVOLUTION", "names": names, "members": convolution}
        )
        makers = {"Builder": self._builder, "OnnxParser": self._parser, "Runtime": self._runtime}
        members = {"__version__": version, **enums, **classes, **makers}
        assert set(members) - {"__version__"} <= self._api.keys()
        return members

    def _builder(self, logger: Any) -> Strict:
        self.logger = logger
        return self.make(
            "Builder",
            create_network=lambda _flags: self._network(),
            create_builder_config=self._make_config,
            create_optimization_profile=lambda: self.make(
                "IOptimizationProfile", set_shape=lambda *shapes: self.profiles.append(shapes)
            ),
            build_serialized_network=lambda _network, _config: self._build(),
        )

    def _parser(self, _network: Any, _logger: Any) -> Strict:
        return self.make("OnnxParser", parse_from_file=lambda _path: True, num_errors=0)

    def _network(self) -> Strict:
        image = self.make("ITensor", name="input", dtype=SimpleNamespace(name=self.dtype), shape=self.input_shape)
        output = self.make("ITensor", name="logits", dtype=SimpleNamespace(name=self.dtype), shape=self.output_shape)
        stem = self.make(
            "ILayer",
            name="stem",
            type=SimpleNamespace(name="CONVOLUTION"),
            metadata="[ONNX Layer: stem]",
            num_inputs=1,  # the kernel is its own
            get_input=[image].__getitem__,
            get_output=[output].__getitem__,
        )
        return self.make(
            "INetworkDefinition",
            num_inputs=1,
            get_input=[image].__getitem__,
            num_outputs=1,
            get_output=[output].__getitem__,
            num_layers=1,
            get_layer=[stem].__getitem__,
        )

    def _make_config(self) -> Strict:
        self.cache = None
        self.config = self.make(
            "IBuilderConfig",
            set_flag=lambda flag: None if flag.name == self.refused else self.flags.add(flag),
            clear_flag=self.flags.discard,
            get_flag=self.flags.__contains__,
            set_memory_pool_limit=self.memory.__setitem__,
            add_optimization_profile=self._add_profile,
            create_timing_cache=self._make_cache,
            set_timing_cache=self._set_cache,
            get_timing_cache=lambda: self.cache,
        )
        return self.config

    def _add_profile(self, _profile: Strict) -> int:
        for text in self.errors:
            self.logger.log(1, text)
        return len(self.profiles) - 1

    def _build(self) -> bytes | None:
        self.building()
        if self.cache is not None:
            self._entries[id(self.cache)].add(self.timing)
        return self.plan

    def _make_cache(self, blob: bytes) -> Strict:
        """A cache is the device that it is of, and what was timed: `sm86:a,b`; nothing is of any device."""
        self.cache_read = blob
        device, _, timed = blob.partition(b":")
        entries = set(filter(None, timed.split(b",")))

        def combine(other: Strict, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            if self._devices[id(other)] not in (b"", self.device):
                return False
            entries.update(self._entries[id(other)])
            return True

        made = self.make(
            "ITimingCache", combine=combine, serialize=lambda: self.device + b":" + b",".join(sorted(entries))
        )
        self._kept.append(made)
        self._entries[id(made)], self._devices[id(made)] = entries, device
        return made

    def _set_cache(self, cache: Strict, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if self._devices[id(cache)] not in (b"", self.device):
            self.logger.log(1, "Error Code 9: the cache is of another device")
            return False
        self.cache = cache
        return True

    def _runtime(self, _logger: Any) -> Strict:
        return self.make("Runtime", deserialize_cuda_engine=lambda _plan: self._engine() if self.loads else None)

    def _engine(self) -> Strict:
        return self.make("ICudaEngine", create_execution_context=self._context, create_engine_inspector=self._inspector)

    def _context(self) -> Strict:
        state = {"profile": 0, "shaped": False}

        def choose(index: int, _stream: int) -> bool:
            state.update(profile=index, shaped=False)
            return 0 <= index < len(self.profiles)

        def shape(name: str, dims: tuple[int, ...]) -> bool:
            self.shapes.append((name, dims))
            _, low, _, high = self.profiles[state["profile"]]
            state["shaped"] = all(a <= b <= c for a, b, c in zip(low, dims, high, strict=True))
            return state["shaped"]

        made = self.make("IExecutionContext", set_input_shape=shape, set_optimization_profile_async=choose)
        self._states[id(made)] = (made, state)
        return made

    def _inspector(self) -> Strict:
        inspector = self.make("EngineInspector")

        def tell(form: Any) -> str:
            assert form.name == "JSON"
            self.inspected_with = inspector.execution_context
            _, state = self._states[id(self.inspected_with)]
            return _with_formats(self.inspector_text, state["profile"] if state["shaped"] else -1)

        inspector.get_engine_information = tell
        return inspector
