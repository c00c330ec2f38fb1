"""The typed content of `manifest.json`, and its canonical JSON.

Canonical: UTF-8, keys sorted, two-space indent, no NaN, a newline at the end; so equal manifests have equal bytes.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from resnetrt.errors import BundleError, UsageError
from resnetrt.preprocess import Preprocessing

SCHEMA_VERSION = 1


@dataclass
class InputSpec:
    """The engine's input: tensor name and `(C, H, W)` of one float32 image, the batch axis left out."""

    name: str
    shape: tuple[int, int, int]


@dataclass
class VariantRecord:
    """A model at one precision: its ONNX file and how it was made.

    `input` is `float32` (normalised NCHW) or `uint8` (NHWC frames, preprocessing baked in).
    `evidence` holds parity with the eager model and the maker's options.
    """

    file: str
    precision: str
    input: str = "float32"
    dialect: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass
class EngineEntry:
    """An engine: its blob, the sidecar that describes it, and the variant it was compiled from."""

    file: str
    sidecar: str
    variant: str


@dataclass
class FileRecord:
    """Size and SHA-256 of one file of the bundle."""

    sha256: str
    size_bytes: int


@dataclass
class Manifest:
    """Everything a bundle says about itself. Names in `files` are POSIX paths relative to the bundle."""

    name: str
    model: dict[str, Any]
    weights: dict[str, Any]
    input: InputSpec
    output: str
    classes: int
    preprocessing: Preprocessing
    labels: list[str] = field(default_factory=list)
    golden: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, VariantRecord] = field(default_factory=dict)
    engines: dict[str, EngineEntry] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)

    @property
    def weights_name(self) -> str:
        """The file that the weights came from, or what they are without one."""
        return str(self.weights.get("name", "the factory's own"))

    @property
    def golden_words(self) -> str:
        """`32 golden images of fashion_test`, as far as the manifest says it."""
        count, source = self.golden.get("images"), self.golden.get("source")
        return f"{count or 'its'} golden images{f' of {source}' if source else ''}"

    @property
    def untrained(self) -> bool:
        """Whether the weights are random ones, made here."""
        return bool(self.weights) and self.weights.get("sha256") is None

    def to_bytes(self) -> bytes:
        """Canonical JSON, with the schema version and a hash over everything else."""
        record = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        record["schema_version"] = SCHEMA_VERSION
        record["manifest_sha256"] = _self_hash(record)
        return canonical_json(record)

    @classmethod
    def from_bytes(cls, blob: bytes, where: str) -> "Manifest":
        """Parse and check; raises `BundleError` naming `where` for anything damaged, tampered with or too new."""
        record = parse_json_object(blob, where)
        version = record.pop("schema_version", None)
        if type(version) is not int or version < 1:
            raise BundleError(
                f"{where}: expected an integer schema_version of at least 1, found {version!r}; export the bundle again"
            )
        if version > SCHEMA_VERSION:
            raise BundleError(
                f"{where}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest this resnetrt reads; "
                "upgrade resnetrt"
            )
        stored = record.pop("manifest_sha256", None)
        try:
            if stored != _self_hash(record | {"schema_version": version}):
                raise BundleError(
                    f"{where}: its own hash does not match, so it was edited or damaged; copy or export it again"
                )
            return _parse(record)
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise BundleError(
                f"{where}: malformed manifest ({type(error).__name__}: {error}); export the bundle again"
            ) from error


def served_name(name: str) -> str:
    """`name` as part of an address or a folder: letters, digits, `.`, `_` and `-`, no dot at its ends."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).strip(".") or "model"


def canonical_json(record: dict[str, Any]) -> bytes:
    """`record` as canonical JSON bytes. Raises `ValueError` for NaN or infinity."""
    return (json.dumps(record, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_json_object(blob: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `blob`; raises `BundleError` naming `where` if it is none."""
    try:
        record = json.loads(blob)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: expected JSON, found {error}; copy or export the bundle again") from error
    if not isinstance(record, dict):
        raise BundleError(f"{where}: expected a JSON object, found {type(record).__name__}")
    return record


def _self_hash(record: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(record)).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Preprocessing):
        return value.to_json()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _parse(record: dict[str, Any]) -> Manifest:
    channels, height, width = map(int, record["input"]["shape"])
    parsed = record | {
        "input": InputSpec(record["input"]["name"], (channels, height, width)),
        "preprocessing": Preprocessing.from_json(record["preprocessing"]),
        "variants": {key: VariantRecord(**item) for key, item in record["variants"].items()},
        "engines": {key: EngineEntry(**item) for key, item in record["engines"].items()},
        "files": {key: FileRecord(**item) for key, item in record["files"].items()},
    }
    return Manifest(**parsed)
