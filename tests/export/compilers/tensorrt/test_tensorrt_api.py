"""Every TensorRT name that the code touches exists in all six versions; the lists were read from the bindings."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from source_tree import ROOT

LISTS = sorted((Path(__file__).parent / "tensorrt_api").glob("*.json"))
SOURCES = sorted(
    [*(ROOT / "export/compilers/tensorrt").glob("*.py"), *(ROOT / "runtime/backends").glob("tensorrt*.py")]
)
# what a variable or attribute of this name holds
OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "added": "IOptimizationProfile",
    "layer": "ILayer",
    "convolution": "IConvolutionLayer",
    "product": "IMatrixMultiplyLayer",
    "constant": "IConstantLayer",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "cache": "ITimingCache",
    "runtime_config": "IRuntimeConfig",
    "kernels": "IRuntimeCache",
}
# only reached where the object has it (hasattr), or where an option that needs it was let through
GUARDED = {
    "IBuilderConfig.set_compute_capability": {"rtx-1.7"},
    "IBuilderConfig.num_compute_capabilities": {"rtx-1.7"},
    "ComputeCapability": {"rtx-1.7"},
    "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY": {"10.9", "10.16", "11.0", "11.4"},
    "BuilderFlag.REQUIRE_USER_ALLOCATION": {"rtx-1.7"},
    "CudaGraphStrategy": {"rtx-1.7"},
    "IRuntimeCache": {"rtx-1.7"},
    "IRuntimeConfig": {"rtx-1.7"},
    "ICudaEngine.create_runtime_config": {"rtx-1.7"},
}
# methods of Python objects that happen to have such a variable name
NOT_TENSORRT = {"ILayer.get", "Runtime.cudaGetDeviceCount"}


def known(path: Path) -> dict[str, set[str]]:
    names = json.loads(path.read_text())["names"]
    return {name: set(members.split()) for name, members in names.items()}


def touched(source: str) -> Iterator[str]:
    """`Class`, `Class.member` or `Enum.MEMBER` for every use of `trt` and of the objects in `OBJECTS`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (named := _named_in(node)):
            yield named
        if not isinstance(node, ast.Attribute) or node.attr.startswith("__"):
            continue
        owner = ast.unparse(node.value)
        if owner == "trt":
            yield node.attr
        elif owner.startswith("trt.") and owner.count(".") == 1:
            yield f"{owner.removeprefix('trt.')}.{node.attr}"
        elif (name := owner.rpartition(".")[2].lstrip("_")) in OBJECTS:
            yield f"{OBJECTS[name]}.{node.attr}"


def _named_in(call: ast.Call) -> str:
    """The method that `call(engine, "name", ...)` or `call.tell(context, "name")` calls; else empty."""
    if len(call.args) < 2 or ast.unparse(call.func).rpartition(".")[2].lstrip("_") not in ("call", "tell"):
        return ""
    owner, method = ast.unparse(call.args[0]).rpartition(".")[2].lstrip("_"), call.args[1]
    return f"{OBJECTS[owner]}.{method.value}" if isinstance(method, ast.Constant) and owner in OBJECTS else ""


def missing(names: set[str], version: Path) -> list[str]:
    lists, short = known(version), version.stem.removeprefix("tensorrt-")
    return sorted(name for name in names if not _exists(name, lists) and short not in _excused(name, short))


def _exists(name: str, lists: dict[str, set[str]]) -> bool:
    owner, _, member = name.partition(".")
    return owner in lists and (not member or member in lists[owner])


def _excused(name: str, version: str) -> set[str]:
    """Versions that need not have a guarded name."""
    where = GUARDED.get(name, GUARDED.get(name.partition(".")[0]))
    return {version} if where and version not in where else set()


def names_of_the_code() -> set[str]:
    from resnetrt.export.compilers.tensorrt.build import FLAGS
    from resnetrt.export.compilers.tensorrt.options import HARDWARE_LEVELS

    names = {name for path in SOURCES for name in touched(path.read_text(encoding="utf-8"))}
    named = {f"BuilderFlag.{flag}" for flag in FLAGS.values()}
    named |= {f"HardwareCompatibilityLevel.{level.upper()}" for level in HARDWARE_LEVELS}
    return (names | named) - NOT_TENSORRT


def test_there_are_six_lists_and_the_code_touches_many_names():
    assert [json.loads(path.read_text())["version"] for path in LISTS] == [
        "10.16.1.11", "10.3.0", "10.9.0.34", "11.0.0.114", "11.4.0.106", "1.7.1.116",
    ]  # fmt: skip
    names = names_of_the_code()
    assert len(names) > 40
    assert {"Builder", "OnnxParser.parse_from_file", "BuilderFlag.VERSION_COMPATIBLE"} <= names
    assert {"IBuilderConfig.set_flag", "ITimingCache.combine"} <= names
    assert {"EngineInspector.get_engine_information", "EngineInspector.execution_context"} <= names
    assert {"IExecutionContext.execute_async_v3", "IExecutionContext.set_device_memory"} <= names
    assert {"IRuntimeConfig.create_runtime_cache", "IRuntimeCache.deserialize"} <= names
    assert {"LayerInformationFormat.JSON", "ProfilingVerbosity.DETAILED", "ITimingCache.serialize"} <= names


@pytest.mark.parametrize("version", LISTS, ids=lambda path: path.stem)
def test_every_name_exists(version: Path):
    assert missing(names_of_the_code(), version) == []


@pytest.mark.parametrize(
    ("planted", "gone_in"),
    [
        ("config.set_flag(trt.BuilderFlag.INT8)", "tensorrt-11.0"),
        ("trt.IInt8EntropyCalibrator2()", "tensorrt-11.4"),
        ("flags = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)", "tensorrt-rtx-1.7"),
        ("config.int8_calibrator = None", "tensorrt-11.0"),
        ("builder.build_engine_with_config(network, config)", "tensorrt-rtx-1.7"),
        ("builder.platform_has_fast_fp16", "tensorrt-11.4"),
        ("parser.supports_model(b'')", "tensorrt-11.0"),
        ("layer.precision", "tensorrt-rtx-1.7"),
        ("config.set_compute_capability_of(1)", "tensorrt-rtx-1.7"),
        ("config.create_timing_cash(b'')", "tensorrt-10.9"),
        ("inspector.get_engine_info(1)", "tensorrt-11.4"),
        ("self._call(slot.context, 'execute_async_v2', stream)", "tensorrt-10.9"),
        ("call.tell(context, 'set_device_memory_v3', 1, 2)", "tensorrt-rtx-1.7"),
    ],
)
def test_a_planted_removed_name_is_found(planted: str, gone_in: str):
    version = next(path for path in LISTS if path.stem == gone_in)
    assert len(missing(set(touched(planted)), version)) == 1


def test_a_guarded_name_must_exist_where_it_is_said_to():
    assert missing({"IBuilderConfig.set_compute_capability"}, LISTS[0]) == []
    assert all(
        _exists(name, known(path)) for name, where in GUARDED.items() for path in LISTS if path.stem[9:] in where
    )
