"""What is known of an engine: the content of the sidecar that lies beside its file in a bundle."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resnetrt.errors import BundleError
from resnetrt.fields import Fields
from resnetrt.parity import TF32, Parity
from resnetrt.tensor_spec import TensorSpec

SCHEMA_VERSION = 1  # of the sidecar; one that has none is of version 1
_NOT_RUN, _NOT_CHECKED = "not run", "not checked"
_UNRECORDED = "nothing is recorded"
_REMEDY = "compile the engine again"


@dataclass(frozen=True)
class NotRun:
    """A check that could not run where the engine was compiled, and why."""

    reason: str

    def to_json(self) -> dict[str, Any]:
        """What the sidecar holds in place of the check's numbers."""
        return {"verdict": _NOT_RUN, "reason": self.reason}

    @staticmethod
    def stands_in(fields: Fields) -> bool:
        """Whether the sidecar holds this in place of numbers."""
        verdict = fields.optional("verdict", str)
        if verdict not in (None, _NOT_RUN):
            fields.refuse("verdict", f'"{_NOT_RUN}" or nothing')
        return verdict is not None


@dataclass(frozen=True)
class ParityNotRun(NotRun):
    """Parity that could not be measured; `variant` is that of the variant, which is another computation."""

    variant: Parity | None = None

    def to_json(self) -> dict[str, Any]:
        """See `NotRun`."""
        return super().to_json() | {"variant": self.variant.to_json() if self.variant else _NOT_CHECKED}

    @classmethod
    def from_fields(cls, fields: Fields) -> "ParityNotRun":
        """The inverse of `to_json`."""
        unknown = fields.stored.get("variant") == _NOT_CHECKED
        return cls(fields.get("reason", str), None if unknown else Parity.from_fields(fields.inner("variant")))


@dataclass(frozen=True)
class EngineParity:
    """How the engine agreed with the `eager` model when it was compiled, and where the `tolerance` comes from.

    `same_file` is its agreement with its own variant, None where the bundle had no outputs of that.
    """

    eager: Parity
    tolerance: str
    same_file: Parity | None = None

    def to_json(self) -> dict[str, Any]:
        """The sidecar's record."""
        same_file = None if self.same_file is None else self.same_file.to_json()
        return self.eager.to_json() | {"tolerance": self.tolerance, "same_file": same_file}

    @classmethod
    def from_fields(cls, fields: Fields) -> "EngineParity | ParityNotRun":
        """The inverse of `to_json`, and of that of `ParityNotRun`."""
        if NotRun.stands_in(fields):
            return ParityNotRun.from_fields(fields)
        measured = fields.optional("same_file", dict) is not None
        same_file = Parity.from_fields(fields.inner("same_file")) if measured else None
        return cls(Parity.from_fields(fields), fields.get("tolerance", str), same_file)


@dataclass(frozen=True)
class AuditSummary:
    """Which precision the engine really runs: the shares of its multiply-accumulates, and that of its own precision.

    `elsewhere` gives the precision of the first operators that run in another one; `read_from` is the evidence.
    """

    share_by_precision: Mapping[str, float]
    own_share: float
    elsewhere: Mapping[str, str]
    read_from: str

    def to_json(self) -> dict[str, Any]:
        """The sidecar's record."""
        return dataclasses.asdict(self)

    @classmethod
    def from_fields(cls, fields: Fields) -> "AuditSummary | NotRun":
        """The inverse of `to_json`, and of that of `NotRun`."""
        if NotRun.stands_in(fields):
            return NotRun(fields.get("reason", str))
        return cls(
            fields.mapping("share_by_precision", float),
            fields.get("own_share", float),
            fields.mapping("elsewhere", str),
            fields.get("read_from", str),
        )


@dataclass(frozen=True)
class BuiltOnGpu:
    """A model of GPU, by CUDA's name for it, and the version of the driver; either may be empty, if unknown."""

    name: str
    driver: str

    @classmethod
    def from_fields(cls, fields: Fields) -> "BuiltOnGpu":
        """The inverse of `dataclasses.asdict`."""
        return cls(fields.get("name", str), fields.get("driver", str))


@dataclass(frozen=True)
class BuiltOn:
    """The processor of the machine that compiled the engine, and the GPU if it has one and the backend uses it."""

    cpu: str
    architecture: str
    instruction_sets: tuple[str, ...]
    gpu: BuiltOnGpu | None = None

    def to_json(self) -> dict[str, Any]:
        """The sidecar's record; older ones know nothing of a GPU."""
        stored = dataclasses.asdict(self) | {"instruction_sets": list(self.instruction_sets)}
        return {name: value for name, value in stored.items() if value is not None}

    @classmethod
    def from_fields(cls, fields: Fields) -> "BuiltOn":
        """The inverse of `to_json`."""
        sets = fields.items("instruction_sets", str)
        gpu = BuiltOnGpu.from_fields(fields.inner("gpu")) if "gpu" in fields.stored else None
        return cls(fields.get("cpu", str), fields.get("architecture", str), sets, gpu)


@dataclass(frozen=True)
class EngineRecord:
    """What an engine is, of which variant and how it was made, and what was found when it was checked.

    `tools` are versions by name, `options` those of the compiler as used; `reduce_range` says that its INT8 weights
    have 7 bits. `details` is read by the modules of its backend alone. An engine that no bundle holds has no variant.
    """

    id: str
    backend: str
    precision: str
    target: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""
    variant_sha256: str = ""
    dialect: str | None = None
    reduce_range: bool = False
    built_on: BuiltOn | None = None
    parity: EngineParity | ParityNotRun = ParityNotRun(_UNRECORDED)
    audit: AuditSummary | NotRun = NotRun(_UNRECORDED)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def own_share(self) -> float | None:
        """The share of its work in the precision of its name; None for one that was not audited."""
        return self.audit.own_share if isinstance(self.audit, AuditSummary) else None

    @property
    def arithmetic(self) -> str:
        """The precision whose tolerance it is held to: `tf32` for an FP32 engine that may round products to TF32.

        ONNX Runtime's TensorRT provider has no option that forbids it, and TensorRT's builder allows it by default.
        """
        may = self.options.get("tf32") or (self.backend, self.target) == ("onnxruntime", "trt-ep")
        return TF32 if self.precision == "fp32" and may else self.precision

    def detail_fields(self) -> Fields:
        """The `details`, to be read with their types."""
        return Fields(self.details, f"engine {self.id}", _REMEDY)

    def to_json(self) -> dict[str, Any]:
        """The sidecar, in which the `details` stand beside the other fields."""
        return {
            "schema_version": SCHEMA_VERSION,
            "id": self.id,
            "backend": self.backend,
            "precision": self.precision,
            "dialect": self.dialect,
            "reduce_range": self.reduce_range,
            "variant": self.variant,
            "variant_sha256": self.variant_sha256,
            "target": self.target,
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "tools": dict(self.tools),
            "options": dict(self.options),
            **({"built_on": self.built_on.to_json()} if self.built_on else {}),
            "parity": self.parity.to_json(),
            "audit": self.audit.to_json(),
            **self.details,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], where: str, engine: str) -> "EngineRecord":
        """The sidecar `stored` at `where`, which must be that of `engine`; what is no field of it is in `details`.

        Raises `BundleError` for a version that is unknown, and for a field that is missing or of another type.
        Older versions store no audit and no `reduce_range`.
        """
        _check_version(stored, where)
        fields = Fields(stored, f"{where} does not describe engine {engine}", _REMEDY)
        if fields.get("id", str) != engine:
            fields.refuse("id", engine)
        own = {item.name for item in dataclasses.fields(cls)} | {"schema_version"}
        return cls(
            id=engine,
            backend=fields.get("backend", str),
            precision=fields.get("precision", str),
            target=fields.get("target", str),
            inputs=tuple(map(TensorSpec.from_fields, fields.inners("inputs"))),
            outputs=tuple(map(TensorSpec.from_fields, fields.inners("outputs"))),
            tools=fields.mapping("tools", str),
            options=fields.get("options", dict),
            variant=fields.get("variant", str),
            variant_sha256=fields.get("variant_sha256", str),
            dialect=fields.optional("dialect", str),
            reduce_range=bool(fields.optional("reduce_range", bool)),
            built_on=BuiltOn.from_fields(fields.inner("built_on")) if "built_on" in stored else None,
            parity=EngineParity.from_fields(fields.inner("parity")),
            audit=AuditSummary.from_fields(fields.inner("audit")) if "audit" in stored else cls.audit,
            details={name: value for name, value in stored.items() if name not in own},
        )


def _check_version(stored: Mapping[str, Any], where: str) -> None:
    version = stored.get("schema_version", SCHEMA_VERSION)
    if type(version) is not int or version < 1:
        raise BundleError(f"{where}: expected an integer schema_version of at least 1, found {version!r}; {_REMEDY}")
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{where}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest this resnetrt reads; "
            "upgrade resnetrt"
        )
