"""Compile a variant of a bundle into an engine, and keep it only if it agrees with the eager model."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from resnetrt.bundle import Bundle
from resnetrt.errors import UsageError
from resnetrt.export.compilers.engine import CompiledEngine
from resnetrt.golden import Golden
from resnetrt.machine import read_cpu
from resnetrt.manifest import EngineRecord, VariantRecord
from resnetrt.parity import tolerance
from resnetrt.runtime.backends import find_backend
from resnetrt.runtime.load import check_threads
from resnetrt.runtime.selftest import selftest

__all__ = ["COMPILERS", "CompiledEngine", "Compiler", "choose_variant", "compile_variant", "engine_id", "find_compiler"]


class Compiler(Protocol):
    """What a module of this folder defines.

    `TARGETS` are its targets, `DIALECT` the INT8 dialect made for it.
    """

    TARGETS: tuple[str, ...]
    DIALECT: str

    @staticmethod
    def compile_engine(variant_path: Path, precision: str, target: str, options: Mapping[str, Any]) -> CompiledEngine:
        """Compile the ONNX file. Raises `UsageError` for what it can't do, `BackendMissing` for what is not here."""


COMPILERS: dict[str, str] = {
    "onnxruntime": "resnetrt.export.compilers.onnxruntime",
    "openvino": "resnetrt.export.compilers.openvino",
}


def find_compiler(backend: str) -> Compiler:
    """The compiler of `backend`; raises `UsageError` for an unknown one. Its package need not be installed."""
    if backend not in COMPILERS:
        raise UsageError.unknown("backend", backend, COMPILERS)
    return cast(Compiler, importlib.import_module(COMPILERS[backend]))


def engine_id(variant: str, record: VariantRecord, backend: str, target: str) -> str:
    """`backend-precision-target`; a variant that is not the backend's usual one of its precision stands by its name.

    So `int8.cpu` becomes `openvino-int8-cpu`, and `int8.tensorrt` on the same backend `openvino-int8.tensorrt-cpu`.
    """
    usual = (record.precision, f"{record.precision}.{find_compiler(backend).DIALECT}")
    return f"{backend}-{record.precision if variant in usual else variant}-{target}"


def choose_variant(bundle: Bundle, backend: str, precision: str) -> str:
    """The variant to compile for `backend` at `precision`: the one in its dialect, else the one without a dialect.

    Raises `UsageError` naming the variants there are.
    """
    variants = bundle.manifest.variants
    for name in (f"{precision}.{find_compiler(backend).DIALECT}", precision):
        if name in variants:
            return name
    raise UsageError.unknown(f"precision of {bundle.path} for {backend}", precision, variants)


def compile_variant(
    bundle: Bundle, variant: str, backend: str, target: str = "cpu", options: Mapping[str, Any] | None = None
) -> str:
    """Compile `variant` for `backend` and add the engine to the bundle; returns its id. An older one is replaced.

    The engine is loaded from the staged file and compared with the golden outputs before the bundle changes; the
    result is stored in its sidecar. Raises `CheckFailed` with the numbers if it fails, and then nothing is written.
    """
    path = bundle.variant_file(variant)
    record = bundle.manifest.variants[variant]
    chosen = find_compiler(backend)
    if target not in chosen.TARGETS:
        raise UsageError.unknown(f"{backend} target", target, chosen.TARGETS)
    compiled = chosen.compile_engine(path, record.precision, target, options or {})
    name = engine_id(variant, record, backend, target)
    blob_name, sidecar_name = f"engines/{name}.{compiled.extension}", f"engines/{name}.json"
    sidecar = {
        "id": name,
        "backend": backend,
        "precision": record.precision,
        "dialect": record.dialect,
        "variant": variant,
        "variant_sha256": bundle.manifest.files[record.file].sha256,
        "target": target,
        "inputs": [spec.to_json() for spec in compiled.inputs],
        "outputs": [spec.to_json() for spec in compiled.outputs],
        "tools": compiled.tools,
        "options": compiled.options,
        "built_on": _this_cpu(),
    }
    with bundle.edit() as editor:
        staged = editor.new_path(blob_name)
        staged.write_bytes(compiled.blob)
        sidecar["parity"] = _check(bundle, staged, sidecar)
        editor.write_json(sidecar_name, sidecar)
        editor.manifest.engines[name] = EngineRecord(blob_name, sidecar_name, variant)
    return name


def _check(bundle: Bundle, staged: Path, sidecar: dict[str, Any]) -> dict[str, Any]:
    golden = Golden.of(bundle)
    with find_backend(sidecar["backend"]).load(staged, sidecar, check_threads(None)) as session:
        session.preprocessing = bundle.manifest.preprocessing
        found = selftest(session, golden, bundle.manifest.output)
    return found.to_json() | {"tolerance": tolerance(sidecar["backend"], sidecar["precision"]).reason}


def _this_cpu() -> dict[str, Any]:
    cpu = read_cpu()
    present = sorted(name for name, here in cpu.instruction_sets.items() if here)
    return {"cpu": cpu.model, "architecture": cpu.architecture, "instruction_sets": present}
