"""`package device`: a bundle with only what a device needs to compile, check and run its engines.

It is a bundle like any other. Kept are the variants that the device's backends take with their outlines and their
outputs on the golden images, these images (uint8 frames), labels, preprocessing, evidence and the fold certificate. Of
the calibration record only the hashes of its images stay, so that `evaluate` still refuses these images; its histograms
are left out.
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resnetrt.bundle import CALIBRATE, MANIFEST, Bundle, BundleEditor, create_bundle, sha256_of
from resnetrt.calibration_record import IMAGES_FILE, calibration_hashes
from resnetrt.errors import BundleError, UsageError
from resnetrt.export.cast.recipes import check_precisions, record_of
from resnetrt.export.compilers import COMPILERS, find_compiler
from resnetrt.export.engines.compile import choose_variant
from resnetrt.export.variants.outline import outline_file
from resnetrt.golden import FILE as GOLDEN
from resnetrt.golden import outputs_file

_EVIDENCE = ("fold.json",)
_EVERYWHERE = ("fp32", "int8")  # what every backend takes; the others are its casts


@dataclass(frozen=True)
class DevicePackage:
    """The packaged bundle, and what of the source's files it left out; `made` are variants that were cast for it."""

    bundle: Bundle
    left_out: tuple[str, ...]
    left_out_bytes: int
    made: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by file, largest first, with the manifest."""
        files = {name: record.size_bytes for name, record in self.bundle.manifest.files.items()}
        files[MANIFEST] = (self.bundle.path / MANIFEST).stat().st_size
        return dict(sorted(files.items(), key=lambda item: (-item[1], item[0])))

    def to_json(self) -> dict[str, Any]:
        """Plain values; sizes in bytes."""
        manifest, sizes = self.bundle.manifest, self.sizes
        return {
            "out": str(self.bundle.path),
            "variants": sorted(manifest.variants),
            "engines": sorted(manifest.engines),
            "files": [{"file": name, "size_bytes": size} for name, size in sizes.items()],
            "size_bytes": sum(sizes.values()),
            "left_out": list(self.left_out),
            "left_out_bytes": self.left_out_bytes,
            "made": list(self.made),
        }


def package_device(
    bundle: Bundle,
    out: Path,
    backends: Sequence[str] = (),
    precisions: Sequence[str] = (),
    engines: Sequence[str] = (),
    input_type: str = "float32",
    overwrite: bool = False,
) -> DevicePackage:
    """Write the bundle `out` with the variants for `backends` and `precisions` (empty: all that there are).

    Casts that are missing are made and stored in `bundle` first, as the device can't make them. `engines` are taken
    with their variants. Nothing appears at `out` unless every file was copied whole.
    Raises `UsageError` for unknown names, for variants that are asked for by backend and precision and are not there,
    and for an `out` that is taken; `CheckFailed` for a cast that fails its check.
    """
    if out.resolve() == bundle.path.resolve():
        raise UsageError(f"--out {out}: expected another place than the bundle itself, found the same; choose another")
    before = set(bundle.manifest.variants)
    named = [bundle.select_engine(name) for name in dict.fromkeys(engines)]
    variants = _variants(bundle, backends, precisions, input_type)
    variants |= dict.fromkeys(bundle.manifest.engines[name].variant for name in named)
    manifest = bundle.manifest
    kept = replace(
        manifest,
        weights={name: value for name, value in manifest.weights.items() if name != "path"},  # a place on this machine
        variants={name: manifest.variants[name] for name in variants},
        engines={name: manifest.engines[name] for name in named},
        files={},
    )
    files = _files(bundle, variants, named)
    with create_bundle(out, kept, overwrite) as editor:
        for name in files:
            _copy(bundle, name, editor)
        images = calibration_hashes(bundle)
        if images is not None:
            editor.write_json(IMAGES_FILE, {"image_hashes": list(images)})
    left = sorted(set(manifest.files) - set(files) - {IMAGES_FILE})
    size = sum(manifest.files[name].size_bytes for name in left)
    return DevicePackage(Bundle.open(out), tuple(left), size, tuple(sorted(set(manifest.variants) - before)))


def _variants(bundle: Bundle, backends: Sequence[str], precisions: Sequence[str], input_type: str) -> dict[str, None]:
    """The names of the variants to keep."""
    check_precisions(precisions)
    present = {record.precision for record in bundle.manifest.variants.values() if record.input == input_type}
    variants: dict[str, None] = {}
    missing = set(precisions)
    for backend in backends or COMPILERS:
        taken = (*_EVERYWHERE, *find_compiler(backend).CASTS)
        for precision in (item for item in precisions or sorted(present) if item in taken):
            try:
                variants[choose_variant(bundle, backend, precision, input_type)] = None
                missing.discard(precision)
            except UsageError:
                if backends and precisions:
                    raise
    if missing or not variants:
        wanted = ", ".join(sorted(missing)) or f"any that takes {input_type}"
        known = ", ".join(sorted(bundle.manifest.variants)) or "none"
        first = "" if record_of(bundle) else f"{CALIBRATE}, then "
        raise UsageError(
            f"bundle {bundle.path}: expected a variant at precision {wanted} for {', '.join(backends or COMPILERS)}, "
            f"found variants {known}; make it with: {first}resnetrt quantize BUNDLE"
        )
    return variants


def _files(bundle: Bundle, variants: Iterable[str], engines: Iterable[str]) -> list[str]:
    """The files to copy: of the variants, of the engines with what lies beside them, and the evidence."""
    manifest = bundle.manifest
    wanted = [GOLDEN, *_EVIDENCE]
    for variant in variants:
        file = manifest.variants[variant].file
        wanted += [file, outputs_file(variant), outline_file(file)]
    beside = tuple(f"engines/{engine}." for engine in engines)
    wanted += [manifest.engines[engine].file for engine in engines]
    wanted += [name for name in manifest.files if beside and name.startswith(beside)]
    return [name for name in dict.fromkeys(wanted) if name in manifest.files]


def _copy(bundle: Bundle, name: str, editor: BundleEditor) -> None:
    """Copy a file; a copy that is another file, as on a failing disk, is refused before anything appears."""
    target = editor.new_path(name)
    shutil.copyfile(bundle.file(name), target)
    if sha256_of(target) != bundle.manifest.files[name].sha256:
        raise BundleError(f"bundle {bundle.path}: the copy of {name} is another file than the bundle's; check the disk")
