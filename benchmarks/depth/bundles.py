"""Bundles for the depth lab, kept in a folder and made once per network, tool versions and source code.

Weights are random, so the architecture is what is timed. A stage is skipped if its result exists already, so an
interrupted run resumes where it stopped.
"""

from collections.abc import Sequence
from pathlib import Path

from resnetrt.benchmarks.depth.plan import Subject
from resnetrt.benchmarks.verify.prepare import prepare_export, recipe_hash
from resnetrt.bundle import Bundle
from resnetrt.calibration.observe.collect import calibrate_bundle
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
from resnetrt.calibration_record import FILE as CALIBRATION
from resnetrt.errors import BackendMissing, BackendRefused, BundleError, CheckFailed, UsageError
from resnetrt.export.cast.recipes import UINT8, check_precisions
from resnetrt.export.compilers import find_compiler
from resnetrt.export.engines.compile import choose_variant, compile_variant, engine_id
from resnetrt.export.fp32.export import export_bundle
from resnetrt.progress import Say
from resnetrt.runtime.backends.onnxruntime import cuda_is_here

CALIBRATION_DATA, CALIBRATION_IMAGES = "fashion_calib", 16
_ON_CUDA = ("fp32", "fp16")  # ONNX Runtime's CUDA provider has no integer convolution
GOLDEN_IMAGES = 12  # four images that the self-test runs alone, then a batch of eight


def lab_bundle(network: str, precisions: Sequence[str], backends: Sequence[str], work: Path, say: Say) -> Subject:
    """The bundle of `network` with every engine that this machine can make; INT8 engines also in a version for frames.

    ONNX Runtime's are for the CPU and, where its CUDA provider and a GPU are here, for that too.
    Raises `UsageError` for an unknown precision.
    """
    check_precisions(precisions)
    path = work / f"{network}-{recipe_hash()}.bundle"
    bundle = _open(path) or _export(network, path, say)
    if CALIBRATION not in bundle.manifest.files and "int8" in precisions:
        calibrate_bundle(bundle, CALIBRATION_DATA, CALIBRATION_IMAGES)
    engines: dict[str, list[str]] = {"float32": [], "uint8": []}
    left_out = []
    for precision in precisions:
        for backend in backends:
            for kind in engines if precision == "int8" else ("float32",):
                try:
                    engines[kind].append(_engine(bundle, backend, precision, kind, None, say))
                except (BackendMissing, BackendRefused, CheckFailed, UsageError) as error:
                    left_out.append(f"{network} {backend} {precision} from {kind}: {error}")
        if precision in _ON_CUDA and "onnxruntime" in backends and cuda_is_here():
            try:
                engines["float32"].append(_engine(bundle, "onnxruntime", precision, "float32", "cuda", say))
            except (BackendMissing, BackendRefused, CheckFailed, UsageError) as error:
                left_out.append(f"{network} onnxruntime {precision} on cuda: {error}")
    return Subject(bundle, engines["float32"], left_out, engines["uint8"])


def _open(path: Path) -> Bundle | None:
    try:
        return Bundle.open(path)
    except BundleError:  # missing or damaged: make it again
        return None


def _export(network: str, path: Path, say: Say) -> Bundle:
    say(f"export {network} with random weights to {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return export_bundle(prepare_export(network, golden_count=GOLDEN_IMAGES), path, overwrite=True)[0]


def _engine(bundle: Bundle, backend: str, precision: str, kind: str, wanted_target: str | None, say: Say) -> str:
    """The id of the engine that takes `kind` (float32 images or uint8 frames); it is compiled if missing."""
    chosen = find_compiler(backend)
    dialect, target = chosen.DIALECT, chosen.resolve_target(wanted_target)
    if why := chosen.obstacle(target):
        raise BackendMissing(why)
    wanted = f"int8.{dialect}" + (UINT8 if kind == "uint8" else "")
    if precision == "int8" and wanted not in bundle.manifest.variants:
        quantize_variant(bundle, dialect, QuantizeOptions(input=kind))
    variant = choose_variant(bundle, backend, precision, kind, target)
    name = engine_id(variant, bundle.manifest.variants[variant], backend, target)
    if name not in bundle.manifest.engines:
        name = compile_variant(bundle, variant, backend, wanted_target)
        say(f"compile {bundle.manifest.name} {name}")
    return name
