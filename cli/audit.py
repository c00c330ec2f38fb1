"""`resnetrt audit`: which precision really runs, layer by layer."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resnetrt.cli.options import WORDS, bundle_argument, json_option
from resnetrt.cli.output import emit_json, print_table, print_words
from resnetrt.progress import show

if TYPE_CHECKING:
    from resnetrt.export.audit import EngineAudit


_NAMED = 3  # layers of another precision that are named


@click.command("audit")
@bundle_argument
@click.option("--engine", help="Audit this engine only.")
@click.option("--require", "required", type=WORDS, default=(), help="Least share of the work: int8=0.95")
@click.option("--layers", is_flag=True, help="Also name what did not fuse, and list every executed layer.")
@json_option
def command(bundle: Path, engine: str | None, required: tuple[str, ...], layers: bool, as_json: bool) -> int:
    """Which precision each engine of BUNDLE really runs in, what did not fuse, and what was put between the layers.

    Counted are the multiply-accumulates of convolutions and matrix products. Exit code 1 if an engine does less than
    half of them in the precision it is named after, or less than --require says.
    """
    from resnetrt.bundle import COMPILE, Bundle
    from resnetrt.errors import UsageError
    from resnetrt.export.audit import Requirement, audit_engine, broken_requirements

    wanted = [Requirement.parse(text) for text in required]
    opened = Bundle.open(bundle)
    names = [opened.select_engine(engine)] if engine else sorted(opened.manifest.engines)
    if not names:
        raise UsageError(f"bundle {bundle}: no engines yet; make one with: {COMPILE}")
    audits = [audit_engine(opened, name) for name in names]
    broken = [text for audit in audits for text in broken_requirements(audit, wanted)]
    if as_json:
        emit_json({"bundle": str(bundle), "engines": [audit.to_json() for audit in audits], "broken": broken})
    else:
        _print(audits, bundle, layers)
    for text in broken:
        show(f"resnetrt: {text}")
    return 1 if broken else 0


def _print(audits: "list[EngineAudit]", bundle: Path, layers: bool) -> None:
    header = ("engine", "work", "layers", "unfused", "Q/DQ", "casts", "reformats")
    counted = list(dict.fromkeys(_operators(audit) for audit in audits))
    print_table(f"Work: multiply-accumulates of {' or '.join(counted)}", header, map(_row, audits), left=2)
    for audit in audits:
        for line in (*_islands(audit), *_unfused(audit, layers)):
            print_words(f"{audit.engine}: {line}")
        if audit.unfused:
            click.echo(f"  their time: resnetrt bench {bundle} --profile {audit.engine}")
    if not any(audit.islands or audit.unfused for audit in audits):
        click.echo(
            "nothing that matters: all of the work in each engine's own precision, all behind convolutions fused"
        )
    if layers:
        for audit in audits:
            rows = [(item.name, item.op, item.precision, item.kind) for item in audit.evidence.layers]
            print_table(f"{audit.engine}: {audit.evidence.read_from}", ("layer", "op", "precision", "kind"), rows, 4)


def _islands(audit: "EngineAudit") -> Iterator[str]:
    """What runs in another precision; it costs speed, or stays float on purpose."""
    if audit.islands:
        share = sum(item.share for item in audit.islands)
        kinds = "/".join(sorted({item.precision for item in audit.islands}))
        names = ", ".join(item.node for item in audit.islands[:_NAMED])
        more = f" and {len(audit.islands) - _NAMED} more" if len(audit.islands) > _NAMED else ""
        yield f"{share:.1%} of the work runs in {kinds}, at the speed of {kinds}: {names}{more}"


def _unfused(audit: "EngineAudit", layers: bool) -> Iterator[str]:
    """What runs behind a convolution instead of inside it; by name if `layers`."""
    if not audit.unfused:
        return
    kinds = ", ".join(f"{count} {op}" for op, count in Counter(item.op for item in audit.unfused).items())
    yield (
        f"{kinds} behind convolutions run as layers of their own. Outputs are the same; each reads and writes its "
        f"tensor once more. {'By name:' if layers else 'Their names: --layers'}"
    )
    if layers:
        for item in audit.unfused:
            yield f"{item.op} {item.node} behind {item.conv}: {item.layer or 'no layer names it'}"


def _operators(audit: "EngineAudit") -> str:
    return ", ".join(f"{count} {op}" for op, count in audit.operators.items())


def _row(audit: "EngineAudit") -> tuple[Any, ...]:
    shares = ", ".join(f"{name} {share:.1%}" for name, share in audit.share_by_precision.items())
    counts = [audit.count(kind) for kind in ("quantize", "cast", "reformat")]
    return audit.engine, shares, *map(str, (len(audit.evidence.layers), len(audit.unfused), *counts))
