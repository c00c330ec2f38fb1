"""`resnetrt audit`: which precision really runs, layer by layer."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resnetrt.cli.options import WORDS, bundle_argument, json_option
from resnetrt.cli.output import emit_json, note, print_table

if TYPE_CHECKING:
    from resnetrt.export.audit import EngineAudit


@click.command("audit")
@bundle_argument
@click.option("--engine", help="Audit this engine only.")
@click.option("--require", "required", type=WORDS, default=(), help="Least share of the work: int8=0.95")
@click.option("--layers", is_flag=True, help="Also list every executed layer.")
@json_option
def command(bundle: Path, engine: str | None, required: tuple[str, ...], layers: bool, as_json: bool) -> int:
    """Which precision each engine of BUNDLE really runs in, what did not fuse, and what was put between the layers.

    Counted are the multiply-accumulates of convolutions and matrix products. Exit code 1 if an engine does less than
    half of them in the precision it is named after, or less than --require says.
    """
    from resnetrt.bundle import Bundle
    from resnetrt.errors import UsageError
    from resnetrt.export.audit import Requirement, audit_engine, broken_requirements

    wanted = [Requirement.parse(text) for text in required]
    opened = Bundle.open(bundle)
    names = [opened.select_engine(engine)] if engine else sorted(opened.manifest.engines)
    if not names:
        raise UsageError(f"bundle {bundle}: no engines yet; make one with: resnetrt compile")
    audits = [audit_engine(opened, name) for name in names]
    broken = [text for audit in audits for text in broken_requirements(audit, wanted)]
    if as_json:
        emit_json({"bundle": str(bundle), "engines": [audit.to_json() for audit in audits], "broken": broken})
    else:
        _print(audits, layers)
    for text in broken:
        note(f"resnetrt: {text}")
    return 1 if broken else 0


def _print(audits: "list[EngineAudit]", layers: bool) -> None:
    header = ("engine", "multiply-accumulates", "operators", "layers", "unfused", "Q/DQ", "casts", "reformats")
    print_table("", header, map(_row, audits), left=3)
    for audit in audits:
        for item in audit.unfused[:10]:
            click.echo(f"{audit.engine}: {item.op} {item.node} behind {item.conv} is a layer of its own: {item.layer}")
        if len(audit.unfused) > 10:
            click.echo(f"{audit.engine}: and {len(audit.unfused) - 10} more")
        if layers:
            rows = [(item.name, item.op, item.precision, item.kind) for item in audit.evidence.layers]
            print_table(f"{audit.engine}: {audit.evidence.read_from}", ("layer", "op", "precision", "kind"), rows, 4)


def _row(audit: "EngineAudit") -> tuple[Any, ...]:
    shares = ", ".join(f"{name} {share:.1%}" for name, share in audit.share_by_precision.items())
    operators = ", ".join(f"{count} {op}" for op, count in audit.operators.items())
    counts = [audit.count(kind) for kind in ("quantize", "cast", "reformat")]
    return audit.engine, shares, operators, *map(str, (len(audit.evidence.layers), len(audit.unfused), *counts))
