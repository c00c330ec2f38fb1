"""What an engine has to prove: a share of its work in a precision."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnetrt.engine_record import AuditSummary, EngineRecord, NotRun
from resnetrt.errors import BackendMissing, BundleError, CheckFailed, UsageError
from resnetrt.export.audit.audit import EngineAudit, audit_file
from resnetrt.export.compilers.engine import MIN_SHARE

_KNOWN = ("fp32", "fp16", "bf16", "fp8", "int8")
_SHOWN_ISLANDS = 5


@dataclass(frozen=True)
class Requirement:
    """At least `share` (0 to 1) of the multiply-accumulates in `precision`."""

    precision: str
    share: float

    @classmethod
    def parse(cls, text: str) -> "Requirement":
        """From `int8=0.95`; raises `UsageError` for anything else."""
        precision, _, number = text.partition("=")
        if precision not in _KNOWN:
            raise UsageError.unknown("precision", precision, _KNOWN)
        try:
            share = float(number)
        except ValueError:
            share = -1.0
        if not 0 < share <= 1:
            raise UsageError(f"--require {text}: expected PRECISION=SHARE with a share over 0, up to 1, as int8=0.95")
        return cls(precision, share)


def broken_requirements(audit: EngineAudit, required: Sequence[Requirement] = ()) -> list[str]:
    """Each requirement that the engine breaks, in words.

    Whatever is required, an engine that does no work in the precision it is named after breaks it. With nothing
    required, that precision must do at least half of the work.
    """
    named = any(each.precision == audit.precision for each in required)
    own = [] if named else [Requirement(audit.precision, 0.0 if required else MIN_SHARE)]
    return [text for each in (*own, *required) if (text := _broken(audit, each))]


def audit_compiled(engine: Path, record: EngineRecord, variant: Path, min_share: float) -> AuditSummary | NotRun:
    """What a new engine runs in, for its record; where the backend keeps that to itself, why it was not run.

    Raises `CheckFailed` if less than
    `min_share` of the work runs in the precision that the engine is named after.
    """
    try:
        audit = audit_file(engine, record, variant)
    except (BackendMissing, BundleError, CheckFailed, UsageError) as error:  # no outline or layers, a hidden graph
        return NotRun(str(error))
    if min_share and (text := _broken(audit, Requirement(audit.precision, min_share))):
        raise CheckFailed(f"{text}; to keep such an engine all the same: --min-share 0")
    return AuditSummary(
        share_by_precision=audit.share_by_precision,
        own_share=audit.own_share,
        elsewhere={item.node: item.precision for item in audit.islands[:_SHOWN_ISLANDS]},
        read_from=audit.evidence.read_from,
    )


def _broken(audit: EngineAudit, required: Requirement) -> str:
    share = audit.share_by_precision.get(required.precision, 0.0)
    if share > 0 and share >= required.share - 1e-9:
        return ""
    runs = ", ".join(f"{name} {part:.1%}" for name, part in audit.share_by_precision.items())
    wanted = f"at least {required.share:.1%}" if required.share else "some"
    islands = ", ".join(f"{item.node} ({item.precision})" for item in audit.islands[:3])
    where = f"; first of {len(audit.islands)} elsewhere: {islands}" if islands else ""
    return (
        f"engine {audit.engine}: expected {wanted} of the multiply-accumulates in {required.precision}, "
        f"found {runs}{where}"
    )
