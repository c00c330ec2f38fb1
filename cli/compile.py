"""`resnetrt compile`: a variant becomes an engine; --check only asks TensorRT's parser whether it accepts a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resnetrt.cli.options import (
    WORDS,
    SectionedCommand,
    bundle_argument,
    device_option,
    input_option,
    json_option,
    min_share_option,
    set_options,
    tensorrt_options,
)
from resnetrt.cli.output import emit_json
from resnetrt.errors import ResnetrtError
from resnetrt.progress import show

if TYPE_CHECKING:
    from resnetrt.bundle import Bundle
    from resnetrt.engine_record import EngineRecord
_SECTIONS = {
    "--profiles": "TensorRT",
    "--device": "General",
}


@click.command("compile", cls=SectionedCommand, sections=_SECTIONS)
@bundle_argument
@click.option("--backend", required=True, help="onnxruntime, openvino, tensorrt or tensorrt_rtx.")
@click.option("--precision", "precisions", type=WORDS, help="fp32, fp16, bf16, int8, fp8, or several: int8,fp16.")
@click.option("--variant", default=None, help="A variant by name, such as int8.tensorrt, instead of --precision.")
@input_option("With --precision, uint8: the variant that takes frames (quantize --input uint8), preprocessing inside.")
@click.option("--target", default=None, help="tensorrt_rtx: sm75,sm80,sm86,sm89,sm120,sm121; onnxruntime: cpu, cuda.")
@min_share_option
@click.option(
    "--import",
    "plan",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A TensorRT engine of the variant that another program built, as trtexec, to take instead of compiling.",
)
@click.option("--check", is_flag=True, help="Only ask TensorRT's parser about every node; build nothing.")
@tensorrt_options
@device_option
@json_option
def command(
    bundle: Path,
    backend: str,
    precisions: tuple[str, ...] | None,
    variant: str | None,
    input_type: str,
    target: str | None,
    min_share: float,
    plan: Path | None,
    check: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Compile variants of BUNDLE for a backend: by precision, the one made for it, or by name.

    An engine is kept only if it agrees with the eager model, and does at least --min-share of its multiply-accumulates
    in the precision of its name; else the exit code is 1. Of several precisions each is tried, whatever becomes of the
    others.
    """
    from resnetrt.bundle import Bundle
    from resnetrt.errors import UsageError
    from resnetrt.export.engines.compile import check_request, choose_variant

    if (precisions is None) == (variant is None):
        raise UsageError("compile: expected one of --precision and --variant; try --precision int8")
    if variant and input_type != "float32":
        raise UsageError(f"compile: --input goes with --precision; name the variant itself: --variant {variant}.uint8")
    if plan is not None and (check or (variant is None and len(precisions or ()) != 1)):
        raise UsageError(
            "compile: --import takes the plan of one variant: --precision fp16 or --variant, without --check"
        )
    given = set_options(options)
    opened = Bundle.open(bundle)
    wanted = list(dict.fromkeys(precisions or ()))
    for precision in wanted if not check and plan is None else ():
        check_request(backend, precision, target, given)  # all of them before the first is compiled

    def choose(name: str) -> str:
        return variant or choose_variant(opened, backend, name, input_type, target)

    if check:
        _check([opened.variant_file(choose(name)) for name in wanted or [""]], backend, as_json)
        return 0
    made, codes = [], []
    for name in wanted or [""]:
        try:
            made.append(_compile(opened, choose(name), backend, target, given, min_share, plan, as_json))
        except ResnetrtError as error:
            if len(wanted) < 2:
                raise
            show(f"resnetrt: {error}")
            codes.append(error.exit_code)
    if as_json:
        emit_json({"bundle": str(bundle), "engines": made} | (made[0] if len(made) == 1 else {}))
    return max(codes, default=0)


def _compile(
    bundle: "Bundle",
    variant: str,
    backend: str,
    target: str | None,
    options: dict[str, Any],
    min_share: float,
    plan: Path | None,
    as_json: bool,
) -> dict[str, Any]:
    """Compile, and say what came of it; returns its part of the JSON."""
    from resnetrt.export.engines.compile import compile_variant

    engine = compile_variant(bundle, variant, backend, target, options, min_share=min_share, plan=plan)
    record = bundle.read_engine(engine)
    if not as_json:
        size = bundle.manifest.files[bundle.manifest.engines[engine].file].size_bytes
        click.echo(f"{engine}: {size / 1e6:.2f} MB, {_parity(record, bundle)}, {_share(record)}")
    return {"engine": engine, "sidecar": record.to_json()}


def _check(paths: list[Path], backend: str, as_json: bool) -> None:
    """Print the nodes that the parser refuses. Raises `CheckFailed` if there are any."""
    from dataclasses import asdict

    from resnetrt.errors import CheckFailed
    from resnetrt.export.engines.compile import check_variant

    problems = {path.name: check_variant(path, backend) for path in paths}
    if as_json:
        rows = [
            {"file": file, "backend": backend, "unsupported": [asdict(problem) for problem in refusals]}
            for file, refusals in problems.items()
        ]
        emit_json(rows[0] if len(rows) == 1 else {"files": rows})
    else:
        for file, refusals in problems.items():
            for problem in refusals:
                click.echo(f"{problem.node} ({problem.op}): {problem.reason}")
            if not refusals:
                click.echo(f"{file}: {backend} takes every node")
    refused = [
        f"{file}: {backend} does not take {len(refusals)} of its nodes"
        for file, refusals in problems.items()
        if refusals
    ]
    if refused:
        raise CheckFailed("; ".join(refused))


def _share(record: "EngineRecord") -> str:
    from resnetrt.engine_record import NotRun

    if isinstance(record.audit, NotRun):
        return f"precision not audited ({record.audit.reason})"
    return ", ".join(f"{share:.1%} of the work in {name}" for name, share in record.audit.share_by_precision.items())


def _parity(record: "EngineRecord", bundle: "Bundle") -> str:
    from resnetrt.engine_record import NotRun

    parity = record.parity
    if not isinstance(parity, NotRun):
        return f"SQNR {parity.eager.sqnr_db:.1f} dB on {bundle.manifest.golden_words}"
    known = "not checked" if parity.variant is None else f"SQNR {parity.variant.sqnr_db:.1f} dB"
    return f"parity not run ({parity.reason}); its variant: {known}"
