"""Per-image outcomes on disk: the results file, and the journal of a run that may be killed.

Both are safetensors with arrays `<engine number>/<field>`; engine 0 is the reference. The results file is enough to
compute a verdict again, or to compare two runs, without running a model.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from resnetrt.atomic import write_file
from resnetrt.benchmarks.accuracy.comparison import BatchOutcomes, Outcomes, PairedOutcomes
from resnetrt.errors import DataError, UsageError

SUFFIX = ".safetensors"
WRITE_RESULTS = "write one with: resnetrt evaluate BUNDLE --data FOLDER --results FILE"
_FORMAT = 1
_JOURNAL_FORMAT = 2
_FIELDS = tuple(field.name for field in fields(Outcomes))
_DIGEST = 16
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Results:
    """A stored run: the comparison, and `about` (data set, bundle, conditions, class names)."""

    comparison: PairedOutcomes
    about: dict[str, Any]


def write_results(path: Path, comparison: PairedOutcomes, about: dict[str, Any]) -> None:
    """Store a run at `path`, atomically."""
    arrays: Arrays = {"indices": comparison.indices, "labels": comparison.labels, "images": comparison.images}
    if comparison.groups is not None:
        arrays["groups"] = comparison.groups
    arrays |= _pack((comparison.reference, *comparison.candidates.values()))
    header = {
        "format": _FORMAT,
        "engines": list(comparison.candidates),
        "calibration_overlap": comparison.calibration_overlap,
        "about": about,
    }
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    write_file(path, _to_bytes(arrays, {"header": text}))


def read_results(path: Path) -> Results:
    """The inverse of `write_results`. Raises `DataError` for anything else."""
    try:
        with safe_open(path, "numpy") as file:
            header = json.loads((file.metadata() or {})["header"])
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - the file is no mapping
        if header["format"] != _FORMAT:
            raise DataError(f"results {path}: expected format {_FORMAT}, found {header['format']}; evaluate again")
        reference, *others = _unpack(arrays)
        comparison = PairedOutcomes(
            arrays["indices"],
            arrays["labels"],
            arrays["images"],
            reference,
            dict(zip(header["engines"], others, strict=True)),
            header["calibration_overlap"],
            arrays.get("groups"),
        )
    except FileNotFoundError as error:
        raise DataError(f"results {path}: no such file; {WRITE_RESULTS}") from error
    except DataError:
        raise
    except Exception as error:  # safetensors' own error type has no stable public name
        raise DataError(f"results {path}: expected a results file of evaluate, found: {error}") from error
    return Results(comparison, header["about"])


class FileJournal:
    """Finished batches appended to a file, each preceded by its length and hash; an unfinished last batch is cut off.

    `key` describes the run. Raises `UsageError` if the file belongs to another run, whose images would be mixed in.
    """

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self._path = path
        key = key | {"journal_format": _JOURNAL_FORMAT}
        header = json.dumps(key, sort_keys=True).encode()
        blobs = self._read() if path.exists() else []
        if blobs and blobs[0] != header:
            other = json.loads(blobs[0])
            differing = [name for name in sorted({*key, *other}) if key.get(name) != other.get(name)]
            raise UsageError(
                f"journal {path}: expected batches of this run, found those of another, with other "
                f"{', '.join(differing)}; remove it, or choose another --results"
            )
        self._parts = [part_from_bytes(blob) for blob in blobs[1:]]
        if not blobs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_frame(header))

    def finished(self) -> list[BatchOutcomes]:
        """The batches that are finished, in order."""
        return list(self._parts)

    def add(self, part: BatchOutcomes) -> None:
        """Append one batch; it counts as finished when all its bytes are in the file."""
        blob = _frame(part_to_bytes(part))
        with self._path.open("ab") as file:
            file.write(blob)

    def remove(self) -> None:
        """Delete the file; called when the results are stored."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> list[bytes]:
        blob, blobs, start = self._path.read_bytes(), [], 0
        while start + 8 + _DIGEST <= len(blob):
            size = int.from_bytes(blob[start : start + 8], "little")
            content = blob[start + 8 + _DIGEST : start + 8 + _DIGEST + size]
            if _frame(content) != blob[start : start + 8 + _DIGEST + size]:
                break
            blobs.append(content)
            start += 8 + _DIGEST + size
        with self._path.open("r+b") as file:
            file.truncate(start)
        return blobs


def _frame(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + hashlib.sha256(content).digest()[:_DIGEST] + content


def part_to_bytes(part: BatchOutcomes) -> bytes:
    """One batch as safetensors."""
    return _to_bytes({"images": part.images, "overlap": np.array([part.overlap]), **_pack(part.outcomes)})


def part_from_bytes(blob: bytes) -> BatchOutcomes:
    """The inverse of `part_to_bytes`."""
    arrays = load_safetensors(blob)
    return BatchOutcomes(arrays["images"], tuple(_unpack(arrays)), int(arrays["overlap"][0]))


def _pack(outcomes: Sequence[Outcomes]) -> Arrays:
    return {f"{i}/{name}": getattr(part, name) for i, part in enumerate(outcomes) for name in _FIELDS}


def _unpack(arrays: Arrays) -> list[Outcomes]:
    count = sum(key.endswith(f"/{_FIELDS[0]}") for key in arrays)
    return [Outcomes(**{name: arrays[f"{i}/{name}"] for name in _FIELDS}) for i in range(count)]


def _to_bytes(arrays: Arrays, metadata: dict[str, str] | None = None) -> bytes:
    return bytes(save_safetensors({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata))
