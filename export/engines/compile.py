"""Compile a variant of a bundle into an engine, and keep it only if it agrees with the eager model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetrt.bundle import CALIBRATE, Bundle
from resnetrt.engine_record import BuiltOn, BuiltOnGpu, EngineParity, EngineRecord, ParityNotRun
from resnetrt.errors import BackendMissing, UsageError
from resnetrt.export.audit import audit_compiled
from resnetrt.export.cast.recipes import RECIPES, UINT8, is_current, record_of
from resnetrt.export.compilers import find_compiler, variants_for
from resnetrt.export.compilers.engine import MIN_SHARE, CompiledEngine
from resnetrt.fields import Fields
from resnetrt.golden import Golden
from resnetrt.machine import read_cpu
from resnetrt.manifest import EngineEntry, VariantRecord
from resnetrt.parity import Parity, tolerance
from resnetrt.progress import working
from resnetrt.runtime.backends import find_backend
from resnetrt.runtime.backends.tensorrt_library import LIBRARIES
from resnetrt.runtime.cuda import choose_device, find_devices
from resnetrt.runtime.load import check_threads
from resnetrt.runtime.selftest import selftest
from resnetrt.settings import read_settings

if TYPE_CHECKING:
    from resnetrt.export.compilers.tensorrt.flavour import Flavour
    from resnetrt.export.compilers.tensorrt.parse import UnsupportedNode


def engine_id(variant: str, record: VariantRecord, backend: str, target: str) -> str:
    """`backend-precision-target`; a variant that is not the backend's usual one for the precision appears by its name.

    So `int8.cpu` becomes `openvino-int8-cpu`, `int8.tensorrt` on the same backend `openvino-int8.tensorrt-cpu`, and
    `int8.cpu.uint8`, which takes frames, `openvino-int8-cpu-uint8`.
    """
    usual = usual_variants(backend, record.precision, target)
    plain = variant.removesuffix(UINT8)
    return f"{backend}-{record.precision if plain in usual else plain}-{target}" + (
        "-uint8" if plain != variant else ""
    )


def usual_variants(backend: str, precision: str, target: str | None = None) -> tuple[str, ...]:
    """Names of the variants that `backend` takes for `precision` on `target`, the best first."""
    chosen = variants_for(backend, target)
    best = RECIPES[precision].variant if precision in chosen.CASTS else f"{precision}.{chosen.DIALECT}"
    return (best, precision)


def check_request(backend: str, precision: str, target: str | None, options: Mapping[str, Any]) -> None:
    """Raise `UsageError` or `BackendMissing` for what `backend` can't compile here, before anything is made for it."""
    chosen = find_compiler(backend)
    chosen.check_request(precision, chosen.resolve_target(target), options)


def choose_variant(
    bundle: Bundle, backend: str, precision: str, input_type: str = "float32", target: str | None = None
) -> str:
    """The variant to compile for `backend` at `precision`: the one in its dialect, else the one without a dialect.

    With `input_type` `uint8` it is the one that takes frames, its preprocessing baked in.

    A cast (FP16, BF16, FP8, and INT8 over FP16 for TensorRT) is added to the bundle if it is not there or was made
    from an older source. Raises `UsageError` that says how to make the variant, or which ones there are.
    """
    variants = bundle.manifest.variants
    suffix = UINT8 if input_type == "uint8" else ""
    if (
        precision in variants_for(backend, target).CASTS
        and "fp32" in variants
        and not is_current(bundle, precision, input_type)
    ):
        try:
            from resnetrt.export.cast.cast import add_cast_variant
        except ModuleNotFoundError as error:
            if error.name not in ("onnx", "onnx_ir"):
                raise
            raise BackendMissing(
                f"bundle {bundle.path}: no {precision} variant for {backend}, and no package {error.name} to make one; "
                f"on a workstation run: "
                f"resnetrt package device BUNDLE --out DEVICE --for {backend} --precisions {precision}"
            ) from error

        return add_cast_variant(bundle, precision, input_type)[0]
    usual = usual_variants(backend, precision, target)
    for name in usual:
        if name + suffix in variants:
            return name + suffix
    if precision == "int8" or any(name in variants for name in usual):
        first = "" if record_of(bundle) else f"{CALIBRATE}, then "
        dialect = f" --dialect {variants_for(backend, target).DIALECT}" if precision == "int8" else ""
        takes, frames = (" takes uint8 frames", " --input uint8") if suffix else ("", "")
        raise UsageError(
            f"bundle {bundle.path}: no {precision} variant for {backend}{takes}; "
            f"make one with: {first}resnetrt quantize BUNDLE{dialect}{frames}"
        )
    raise UsageError.unknown(f"precision of {bundle.path} for {backend}", precision, variants)


def check_variant(path: Path, backend: str) -> "list[UnsupportedNode]":
    """The nodes of an ONNX file that the parser of `backend` refuses; nothing is built.

    Raises `UsageError` for a backend other than TensorRT's.
    """
    from resnetrt.export.compilers.tensorrt.parse import check_model

    return check_model(path, _flavour("--check", backend))


def compile_variant(
    bundle: Bundle,
    variant: str,
    backend: str,
    target: str | None = None,
    options: Mapping[str, Any] | None = None,
    min_share: float = MIN_SHARE,
    plan: Path | None = None,
) -> str:
    """Compile `variant` for `backend` and add the engine to the bundle; returns its id. An older one is replaced.

    With `plan` nothing is compiled: the file is a TensorRT engine that another program made of the variant.

    The engine is loaded from the staged file and compared with the golden outputs before the bundle changes; the
    result is stored in its sidecar. Raises `CheckFailed` with the numbers if it fails, and then nothing is written.
    An engine that this machine can't run (an RTX engine without that GPU) is stored with `parity.verdict` `not run`.
    The engine is audited too: `CheckFailed` if less than `min_share` of its work runs in the precision of its name.
    """
    path = bundle.variant_file(variant)
    record = bundle.manifest.variants[variant]
    chosen = find_compiler(backend)
    if plan is not None and target is None:
        target = _target_here()  # a plan does not say which GPUs it is for, only whether it loads
    target = chosen.resolve_target(target)
    if plan is None:
        with working(f"compiling {variant} for {backend}"):
            compiled = chosen.compile_engine(path, record.precision, target, options or {})
    else:
        compiled = _imported(plan, path, backend, target, options or {})
    name = engine_id(variant, record, backend, target)
    blob_name, sidecar_name = f"engines/{name}.{compiled.extension}", f"engines/{name}.json"
    about = replace(
        compiled.record(name, backend, record.precision, target),
        variant=variant,
        variant_sha256=bundle.manifest.files[record.file].sha256,
        dialect=record.dialect,
        reduce_range=bool(record.evidence.get("reduce_range")),
        built_on=_this_machine(backend),
    )
    obstacle = chosen.obstacle(target)
    with working(f"checking {name}"), bundle.edit() as editor:
        staged = editor.write(blob_name, compiled.blob)
        parity = _not_run(obstacle, bundle, variant) if obstacle else _check(bundle, staged, about)
        for ending, companion in compiled.companions.items():
            editor.write_json(f"engines/{name}.{ending}", companion)
        about = replace(about, parity=parity, audit=audit_compiled(staged, about, path, min_share))
        editor.write_json(sidecar_name, about.to_json())
        editor.manifest.engines[name] = EngineEntry(blob_name, sidecar_name, variant)
    return name


def _imported(plan: Path, variant_path: Path, backend: str, target: str, options: Mapping[str, Any]) -> CompiledEngine:
    from resnetrt.export.compilers.tensorrt.flavour import building_here
    from resnetrt.export.compilers.tensorrt.import_plan import import_plan

    flavour = _flavour("--import", backend)
    with building_here(flavour.title):
        return import_plan(flavour, plan, variant_path, target, options)


def _target_here() -> str | None:
    from resnetrt.export.compilers.tensorrt.flavour import target_here

    return target_here()


def _flavour(option: str, backend: str) -> "Flavour":
    """The flavour of TensorRT called `backend`. Raises `UsageError` naming the `option` that is for TensorRT alone."""
    from resnetrt.export.compilers.tensorrt.flavour import FULL, RTX

    flavours = {flavour.backend: flavour for flavour in (FULL, RTX)}
    if backend not in flavours:
        raise UsageError(f"{option}: expected a backend of TensorRT ({', '.join(flavours)}), found {backend}")
    return flavours[backend]


def _check(bundle: Bundle, staged: Path, record: EngineRecord) -> EngineParity:
    golden = Golden.of(bundle, record.variant)
    with find_backend(record.backend).load(staged, record, check_threads(None)) as session:
        session.preprocessing = bundle.manifest.preprocessing
        eager = selftest(session, golden, bundle.manifest.output)
    return EngineParity(eager, tolerance(record.backend, record.arithmetic).reason, session.same_file)


def _not_run(reason: str, bundle: Bundle, variant: str) -> ParityNotRun:
    """Why parity was not run, and that of the variant."""
    evidence = bundle.manifest.variants[variant].evidence
    fields = Fields(evidence, f"bundle {bundle.path}: variant {variant}", "make the variant again")
    return ParityNotRun(reason, Parity.from_fields(fields.inner("parity")) if "parity" in evidence else None)


def _this_machine(backend: str) -> BuiltOn:
    cpu = read_cpu()
    present = sorted(name for name, here in cpu.instruction_sets.items() if here)
    return BuiltOn(cpu.model, cpu.architecture, tuple(present), _this_gpu() if backend in LIBRARIES else None)


def _this_gpu() -> BuiltOnGpu | None:
    devices, _ = find_devices()
    if not devices:
        return None
    device = choose_device(devices, read_settings().device, "compile")
    return BuiltOnGpu(device.name, device.driver)
