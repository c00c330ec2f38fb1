"""Which TensorRT library loads an engine, and whether it can: found out before the library sees the file."""

import importlib
import logging
import re
from dataclasses import replace
from typing import Any

from resnetrt.engine_record import EngineRecord
from resnetrt.errors import BackendMissing, BundleError
from resnetrt.fields import Fields
from resnetrt.parts import PARTS
from resnetrt.runtime.backends import compile_again
from resnetrt.runtime.backends.tensorrt_logger import first_error, logger_of, make, warnings_of
from resnetrt.runtime.cuda.device import Device, choose_device, find_devices
from resnetrt.settings import read_settings

_log = logging.getLogger("resnetrt.runtime")

# Modules by backend, in the order of preference. The lean and dispatch runtimes take version-compatible engines only.
LIBRARIES = {"tensorrt": ("tensorrt", "tensorrt_lean", "tensorrt_dispatch"), "tensorrt_rtx": ("tensorrt_rtx",)}
# (built by, runs with): "No other combination across major versions is supported" (TensorRT 11.4.1, support matrix)
_ACROSS_MAJORS = {(8, 10), (10, 11)}
_RTX_LACKS = {(9, 0): " (H100, H200)", (10, 0): " (B200)", (10, 3): " (B300)"}


def require_device(what: str, wanted: str | None) -> Device:
    """The device `wanted`, as `choose_device` takes it, or that of the setting.

    Raises `BackendMissing` without any; the lean runtime would crash instead. `UsageError` for one that is not here.
    """
    devices, reason = find_devices()
    if not devices:
        raise BackendMissing(f"{what}: expected an NVIDIA GPU that can be used, found none: {reason}")
    return choose_device(devices, wanted or read_settings().device, what)


def warn_of_another_gpu(record: EngineRecord, device: Device) -> None:
    """Log a warning if the engine was built on another model of GPU than `device`, or with another driver.

    TensorRT chose its kernels by their time on that GPU, and allows this. TensorRT-RTX chooses them where it runs.
    """
    built = record.built_on and record.built_on.gpu
    if not built or record.backend != "tensorrt":
        return
    moved = not record.options.get("hardware_compatible") and _differ(built.name, device.name)
    if moved or _differ(built.driver, device.driver):
        _log.warning(
            "engine %s: built on %s with driver %s, this is %s with driver %s: it may be slower than one built here, "
            "and TensorRT does not promise that it runs; %s",
            *(record.id, built.name or "a GPU", built.driver or "unknown"),
            *(device.name or "a GPU", device.driver or "unknown", compile_again(record)),
        )


def _differ(one: str, other: str) -> bool:
    """Whether both are known, and not the same."""
    return bool(one and other and one != other)


def check_fits(record: EngineRecord, device: Device) -> None:
    """Raise `BundleError` in one sentence if the engine was built for another GPU than `device`."""
    what, targets = f"engine {record.id}", _targets(record)
    if record.backend == "tensorrt_rtx" and device.capability in _RTX_LACKS:
        raise BackendMissing(
            f"{what}: TensorRT-RTX does not run on compute capability {_dotted(device.capability)}"
            f"{_RTX_LACKS[device.capability]}; use the backend tensorrt on this GPU"
        )
    if not targets or device.capability in targets or _compatible(record, targets, device):
        return
    built = ", ".join(map(_dotted, targets))
    raise BundleError(
        f"{what}: built for compute capability {built}, this GPU has {_dotted(device.capability)}; "
        f"{compile_again(record)} --target {device.target}"
    )


def import_library(record: EngineRecord) -> Any:
    """The module that can load the engine.

    Raises `BackendMissing` if none is installed, `BundleError` if those that are have another version.
    """
    backend, what = record.backend, f"engine {record.id}"
    missing: list[str] = []
    unfit: list[str] = []
    for name in LIBRARIES[backend]:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # without a driver some raise OSError or RuntimeError
            missing.append(f"{name} ({error})")
            continue
        reason = _version_trouble(name, str(module.__version__), record)
        if not reason:
            return module
        unfit.append(reason)
    if unfit:
        raise BundleError(f"{what}: {'; '.join(unfit)}; {compile_again(record)}")
    install = next(part.install for part in PARTS if part.module == backend)
    raise BackendMissing(f"{what}: none of these imports: {'; '.join(missing)}; run: {install}")


def built_version(record: EngineRecord) -> str | None:
    """The TensorRT version that the engine was built with, None where its record lacks it."""
    tools = {name.replace("-", "_"): version for name, version in record.tools.items()}
    return tools.get(record.backend)


def deserialize(trt: Any, blob: Any, what: str, record: EngineRecord) -> tuple[Any, Any]:
    """The engine and the runtime that it needs to live; raises `BundleError` with the first error that was logged.

    What TensorRT warns of is logged as a warning.
    """
    logger = logger_of(trt)
    with logger.recorded() as lines:
        runtime = make(trt.Runtime, logger)
        if _is_version_compatible(record):
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(blob)
    for text in warnings_of(lines):
        _log.warning("%s: TensorRT warns: %s", what, text)
    if engine is None:
        reason = first_error(lines) or "it does not say why"
        raise BundleError(f"{what}: TensorRT can't load it: {reason}; {compile_again(record)}")
    return engine, runtime


def _version_trouble(name: str, here: str, record: EngineRecord) -> str:
    """Why the library `name` of version `here` can't load the engine; empty if it can."""
    built, compatible = built_version(record), _is_version_compatible(record)
    if name in {"tensorrt_lean", "tensorrt_dispatch"} and not compatible:
        return f"{name} {here} loads version-compatible engines only, this one is not"
    if built is None:
        return f"its sidecar does not say which {record.backend} built it"
    if _is_same(here, built) or (compatible and _is_later(here, built)):
        return ""
    return f"built by {record.backend} {built}, this is {name} {here}"


def _is_same(here: str, built: str) -> bool:
    """Whether two versions are of one release: wheels add `.post1`, and some say 10.3.0 where TensorRT is 10.3.0.26.

    What a version does not say is left to TensorRT, which compares major, minor, patch and build of each plan.
    """
    pairs = list(zip(version_numbers(here), version_numbers(built), strict=False))
    return here == built or (len(pairs) > 2 and all(a == b for a, b in pairs))


def _is_later(here: str, built: str) -> bool:
    """Whether a version-compatible engine built by `built` runs with `here`: NVIDIA's page Engine Compatibility."""
    majors = (version_numbers(built)[0], version_numbers(here)[0])
    return majors in _ACROSS_MAJORS or (majors[0] == majors[1] and version_numbers(here) >= version_numbers(built))


def version_numbers(version: str) -> tuple[int, ...]:
    """Major, minor, patch and build, as far as the version has them."""
    match = re.match(r"\d+(\.\d+){0,3}", version)
    return tuple(map(int, match[0].split("."))) if match else (0,)


def _is_version_compatible(record: EngineRecord) -> bool:
    return bool(record.options.get("version_compatible"))


def _targets(record: EngineRecord) -> list[tuple[int, int]]:
    """Compute capabilities that the engine was built for; from the target's name where the record lacks them."""
    build = _build(record)
    stored = build.items("compute_capabilities", int) if "compute_capabilities" in build.stored else ()
    numbers = stored or re.findall(r"sm(\d+)", record.target)
    return [divmod(int(number), 10) for number in numbers]


def _compatible(record: EngineRecord, targets: list[tuple[int, int]], device: Device) -> bool:
    """Hardware-compatible engines: `ampere_plus` runs on 8.0 and newer, RTX's `portable` also on what follows 12.0."""
    if _build(record).optional("portable", bool):
        return device.capability > (12, 0)
    level = str(record.options.get("hardware_compatible") or "").lower()
    return level == "ampere_plus" and device.capability >= (8, 0) and min(targets) >= (8, 0)


def _build(record: EngineRecord) -> Fields:
    """What the compiler stored of the build; nothing for an engine that it did not make."""
    fields = record.detail_fields()
    return fields.inner("tensorrt") if "tensorrt" in record.details else replace(fields, stored={})


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
