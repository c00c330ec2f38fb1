"""The bundle directory: opened only when intact, changed only as a whole.

Every change is staged in a sibling directory (unchanged files are hard links) and exchanged with the bundle in one
system call, so a crash or a full disk leaves either the old bundle or the new one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from resnetrt.atomic import exchange_directories, flush_folder, locked, naming, restore_interrupted, staging
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import BundleError, UsageError
from resnetrt.manifest import (
    EngineEntry,
    FileRecord,
    Manifest,
    VariantRecord,
    canonical_json,
    parse_json_object,
)

MANIFEST = "manifest.json"

# what messages advise; words in capitals are the reader's to fill in
CALIBRATE = "resnetrt calibrate BUNDLE --data FOLDER"
COMPILE = "resnetrt compile BUNDLE --backend BACKEND --precision PRECISION"


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


class Bundle:
    """A bundle on disk that was found intact when opened: schema, containment, sizes and hashes."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path | str) -> "Bundle":
        """Open and check the bundle at `path`.

        Raises `BundleError` if it is missing, half written, tampered with, of a newer schema, or names files outside of
        it.
        """
        path = Path(path)
        restore_interrupted(path)
        if not path.is_dir():
            kind = "a file" if path.exists() else "nothing"
            raise BundleError(
                f"bundle {path}: expected a directory, found {kind}; make one with: resnetrt export MODEL --out BUNDLE"
            )
        manifest_path = path / MANIFEST
        if not manifest_path.is_file():
            raise BundleError(
                f"bundle {path}: no {MANIFEST}, so it is no bundle or half written: copy or export it again"
            )
        manifest = Manifest.from_bytes(manifest_path.read_bytes(), str(manifest_path))
        largest_first = sorted(manifest.files.items(), key=lambda item: -item[1].size_bytes)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # hashing releases the interpreter's lock
            list(pool.map(lambda item: _check_file(path, *item), largest_first))
        return cls(path.absolute(), manifest)

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists; raises `BundleError` for any other name."""
        if name not in self.manifest.files:
            raise BundleError(f"bundle {self.path}: no file {name} in its manifest")
        return self.path / name

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object stored in file `name`."""
        return parse_json_object(self.file(name).read_bytes(), str(self.path / name))

    def read_engine(self, name: str) -> EngineRecord:
        """What the sidecar of an engine says. Raises `BundleError` for a newer one, or one that says something else."""
        sidecar = self.manifest.engines[name].sidecar
        return EngineRecord.from_json(self.read_json(sidecar), f"bundle {self.path}: {sidecar}", name)

    def variant(self, variant: str) -> VariantRecord:
        """What is known of a variant; raises `UsageError` naming the known ones."""
        record = self.manifest.variants.get(variant)
        if record is None and variant == "fp32":
            raise UsageError(
                f"bundle {self.path}: this needs its FP32 variant, which was not packaged; package it with: "
                "resnetrt package device BUNDLE --out DEVICE --precisions fp32,int8"
            )
        if record is None:
            raise UsageError.unknown(f"variant of {self.path}", variant, self.manifest.variants)
        return record

    def variant_file(self, variant: str) -> Path:
        """The ONNX file of a variant; raises `UsageError` naming the known ones."""
        return self.file(self.variant(variant).file)

    def select_engine(self, engine: str | None) -> str:
        """`engine`, or the only engine for None. Raises `UsageError` for an unknown name or an ambiguous None."""
        engines = self.manifest.engines
        if not engines:
            raise UsageError(f"bundle {self.path} has no engine; make one with: {COMPILE}")
        if engine is not None:
            if engine not in engines:
                raise UsageError.unknown(f"engine of {self.path}", engine, engines)
            return engine
        if len(engines) != 1:
            known = ", ".join(sorted(engines))
            raise UsageError(f"bundle {self.path} has {len(engines)} engines; choose with --engine: {known}")
        return next(iter(engines))

    @contextmanager
    def edit(self) -> Iterator["BundleEditor"]:
        """Stage changes to this bundle; they take effect together at the end, or not at all on an exception.

        Raises `BundleError` if a file of this bundle was replaced since it was opened, or anything during the edit.
        """
        if not os.access(self.path.resolve(), os.W_OK):
            raise BundleError(f"bundle {self.path}: it is write-protected; allow writing to its folder, or copy it")
        before = (self.path / MANIFEST).read_bytes()
        current = Manifest.from_bytes(before, str(self.path / MANIFEST))
        if not self.manifest.files.items() <= current.files.items():
            raise self._changed()
        with _staged(self.path) as (staged, place):
            for name in current.files:
                _link_or_copy(self.path / name, staged / name)
            editor = BundleEditor(staged, current)
            yield editor
            editor.seal()
            # else two writers could both find it unchanged, and the later one drop the other's work
            with locked(place):
                if (self.path / MANIFEST).read_bytes() != before:
                    raise self._changed()
                exchange_directories(staged, place)
        self.manifest = editor.manifest

    def _changed(self) -> BundleError:
        return BundleError(f"bundle {self.path}: another process changed it meanwhile; run the command again")


class BundleEditor:
    """Files and manifest of a bundle being written. Assign to `manifest` fields; add files through `write`."""

    def __init__(self, staging: Path, manifest: Manifest) -> None:
        self._staging = staging
        self.manifest = manifest

    def write(self, name: str, blob: bytes) -> Path:
        """Store `blob` as file `name`, replacing any older one; returns where it lies until the end of the edit."""
        path = self.new_path(name)
        with naming(f"{name} of a bundle in {self._staging.parent}"):
            path.write_bytes(blob)
        return path

    def write_json(self, name: str, record: dict[str, Any]) -> None:
        """Store `record` as canonical JSON."""
        self.write(name, canonical_json(record))

    def new_path(self, name: str) -> Path:
        """A path for the caller to write file `name` to; an older file of that name is unlinked first."""
        _check_name(name, "new file")
        path = self._staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # never write through a hard link into the old bundle
        self.manifest.files.pop(name, None)
        return path

    def written(self, name: str) -> Path:
        """Where file `name` lies until the edit ends."""
        return self._staging / name

    def add_variant(self, name: str, record: VariantRecord) -> None:
        """Enter a variant whose file is written; engines made from an older file, which no longer load, are dropped."""
        self.manifest.variants[name] = record
        sha256 = sha256_of(self._staging / record.file)
        for engine, made in list(self.manifest.engines.items()):
            if made.variant == name and self._compiled_from(made) != sha256:
                self.drop_engine(engine)

    def drop_engine(self, name: str) -> None:
        """Remove an engine and its companion files."""
        made = self.manifest.engines.pop(name)
        beside = [file for file in self.manifest.files if file.startswith(f"engines/{name}.")]
        for file in dict.fromkeys([made.file, made.sidecar, *beside]):
            if file in self.manifest.files:
                self.remove(file)

    def _compiled_from(self, engine: EngineEntry) -> object:
        sidecar = self._staging / engine.sidecar
        return parse_json_object(sidecar.read_bytes(), engine.sidecar).get("variant_sha256")

    def remove(self, name: str) -> None:
        """Drop file `name`; raises `BundleError` if there is none."""
        _check_name(name, "removed file")
        if not (self._staging / name).is_file():
            raise BundleError(f"removed file: the bundle has no file {name}")
        (self._staging / name).unlink()
        self.manifest.files.pop(name, None)

    def seal(self) -> None:
        """Hash the files that are new, write the manifest, flush everything to disk."""
        for path in sorted(p for p in self._staging.rglob("*") if p.is_file()):
            name = path.relative_to(self._staging).as_posix()
            if name not in self.manifest.files and name != MANIFEST:
                self.manifest.files[name] = FileRecord(sha256_of(path), path.stat().st_size)
                _flush(path)
        path = self._staging / MANIFEST
        path.unlink(missing_ok=True)
        with naming(f"{MANIFEST} of a bundle in {self._staging.parent}"):
            path.write_bytes(self.manifest.to_bytes())
        _flush(path)
        for folder in sorted(p for p in self._staging.rglob("*") if p.is_dir()):
            flush_folder(folder)
        flush_folder(self._staging)


@contextmanager
def create_bundle(path: Path, manifest: Manifest, overwrite: bool = False) -> Iterator[BundleEditor]:
    """Write a new bundle at `path`; nothing appears there unless the block ends without an exception.

    Raises `UsageError` if something is there already and `overwrite` is false.
    """
    check_destination(path, overwrite)
    with _staged(path) as (staged, place):
        editor = BundleEditor(staged, manifest)
        yield editor
        editor.seal()
        check_destination(path, overwrite)
        if place.exists():
            exchange_directories(staged, place)
        else:
            staged.rename(place)
            flush_folder(place.parent)


def check_destination(path: Path, overwrite: bool) -> None:
    """Raise early what would end the writing: `UsageError` for what is at the destination, `OSError` for its folder.

    Only a bundle may be overwritten.
    """
    empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not empty:
        if not (path / MANIFEST).is_file():
            raise UsageError(
                f"--out {path}: expected a new path or a bundle, found something else; choose another path"
            )
        if not overwrite:
            raise UsageError(f"--out {path}: a bundle is there already; add --overwrite to replace it")
    _check_writable(path.resolve())


def _check_writable(place: Path) -> None:
    """Make and remove a folder where `place` would be: rights alone do not tell, as of /proc."""
    beside = next(folder for folder in place.parents if folder.exists())
    try:
        with TemporaryDirectory(prefix=f".{place.name}.", dir=beside):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(place)) from error


@contextmanager
def _staged(path: Path) -> Iterator[tuple[Path, Path]]:
    """A new directory beside `path`, and where to put it: `path` itself, or what it links to."""
    place = path.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    with staging(place) as staged:  # at the end this holds the old bundle after an exchange, else the unfinished one
        staged.mkdir()
        yield staged, place


def _check_name(name: str, where: str) -> None:
    pure = PurePosixPath(name)
    outside = pure.is_absolute() or ".." in pure.parts or not pure.parts or pure.parts[0] == MANIFEST
    if outside or str(pure) != name or "\\" in name or "\0" in name:
        raise BundleError(f"{where}: expected a relative path inside the bundle, found {json.dumps(name)}")


def _check_file(root: Path, name: str, record: FileRecord) -> None:
    _check_name(name, f"bundle {root}")
    path = root / name
    if not path.is_file():
        raise BundleError(f"bundle {root}: file {name} is missing; the bundle is incomplete: copy or export it again")
    if not path.resolve().is_relative_to(root.resolve()):
        raise BundleError(f"bundle {root}: file {name} leads outside the bundle; refusing it")
    if path.stat().st_size != record.size_bytes:
        raise BundleError(
            f"bundle {root}: file {name} has {path.stat().st_size} bytes, the manifest says {record.size_bytes}; "
            "it was truncated or replaced: copy or export the bundle again"
        )
    if sha256_of(path) != record.sha256:
        raise BundleError(
            f"bundle {root}: file {name} does not match its SHA-256, so it was changed or damaged: "
            "copy or export the bundle again"
        )


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
