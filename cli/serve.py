"""`resnetrt serve`: engines of bundles over HTTP and gRPC, in the Open Inference Protocol."""

import importlib.util
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resnetrt.cli.options import INSTANCES, INTEGERS, SectionedCommand, device_option, given_options, json_option
from resnetrt.errors import DataError, UsageError
from resnetrt.parts import require_parts
from resnetrt.progress import show

if TYPE_CHECKING:
    from resnetrt.bundle import Bundle
    from resnetrt.runtime.serving import ModelSpec
    from resnetrt.runtime.shadow import Baseline, Reference, ShadowOptions

_NEEDED = ("starlette", "uvicorn", "grpc", "tritonclient", "grpc_health", "prometheus_client")
_SECTIONS = {
    "--engine": "Engines and ports",
    "--max-batch-size": "Batching",
    "--instances": "Running",
    "--shadow-rate": "Checking requests beside the reference",
    "--max-body-mb": "Limits",
    "--log-level": "General",
}


@click.command("serve", cls=SectionedCommand, sections=_SECTIONS)
@click.argument("bundles", metavar="[NAME=]BUNDLE...", nargs=-1, required=True)
@click.option("--engine", "engines", multiple=True, metavar="[NAME=]ID", help="Engine of all bundles, or of one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8001, show_default=True, help="0: any free one.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=8002, show_default=True, help="0: any free one.")
@click.option("--max-batch-size", type=click.IntRange(1), default=8, show_default=True, help="Images in one batch.")
@click.option("--preferred-batch-size", type=INTEGERS, default=(), help="Sizes that run without waiting for more.")
@click.option(
    "--max-queue-delay-microseconds",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="How long a batch may wait for more requests.",
)
@click.option(
    "--max-queue-size", type=click.IntRange(1), default=128, show_default=True, help="Requests that may wait."
)
@click.option(
    "--default-timeout-microseconds",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of requests that name none; 0: none.",
)
@click.option(
    "--instances",
    type=INSTANCES,
    default="1",
    show_default=True,
    help="Copies of each engine; auto: one for each core, and one over all cores for a request that is alone.",
)
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads of each copy, or of all with auto. Default: all cores."
)
@click.option(
    "--no-fallback", is_flag=True, help="Fail if an engine fails its self-test, instead of the next precision."
)
@click.option(
    "--model-control-mode",
    type=click.Choice(["none", "explicit"]),
    default="none",
    show_default=True,
    help="explicit: clients load and unload models.",
)
@click.option(
    "--shadow-rate", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share of requests to check."
)
@click.option("--no-shadow-copy", is_flag=True, help="Compare with the reference only, not with a copy of the engine.")
@click.option(
    "--shadow-baseline",
    "shadow_baselines",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="RESULTS",
    help="File of evaluate --results: what the engine did on far more images than the bundle's 16 to 64. Repeatable.",
)
@click.option(
    "--shadow-interval", type=float, default=60.0, show_default=True, help="Seconds between requests that count."
)
@click.option("--no-shadow-scenes", is_flag=True, help="Count requests that look alike, as of a belt; not of a camera.")
@click.option(
    "--on-drift",
    type=click.Choice(["warn", "fallback", "unready"]),
    default="warn",
    show_default=True,
    help="What happens when the engine disagrees too often.",
)
@click.option("--shadow-dir", type=click.Path(path_type=Path), help="Folder for the inputs that disagreed.")
@click.option("--shadow-quota-mb", type=click.IntRange(1), default=64, show_default=True, help="Size of that folder.")
@click.option(
    "--max-body-mb", type=click.IntRange(1, 2047), default=64, show_default=True, help="Largest request, unpacked."
)
@click.option(
    "--head-timeout-secs",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    help="A client must have sent its headers by then.",
)
@click.option(
    "--body-timeout-secs", type=click.FloatRange(0.1), default=30.0, show_default=True, help="... and its body by then."
)
@click.option(
    "--exit-timeout-secs",
    type=click.FloatRange(0, 86400),
    default=30.0,
    show_default=True,
    help="For requests in flight, after SIGTERM.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is logged.",
)
@device_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, bundles: tuple[str, ...], engines: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Serve BUNDLEs (KServe V2, Triton's ports and names) until SIGTERM. Listens on this machine only by default.

    Logs are JSON lines on stderr; the ports are printed when they listen. Ready when every engine passed its self-test
    and ran every batch size.
    """
    require_parts("serve", *_NEEDED)
    from resnetrt.runtime.serving import Limits, ServeOptions
    from resnetrt.runtime.serving.logs import configure_logs
    from resnetrt.runtime.serving.server import Ports, run
    from resnetrt.runtime.stream import BatchOptions

    if not options["shadow_rate"]:
        _refuse_idle_options(ctx)
    specs = model_specs(bundles, engines)
    batching = ("max_batch_size", "preferred_batch_size", "max_queue_delay_microseconds", "max_queue_size")
    serve_options = ServeOptions(
        **{name: options[name] for name in ("host", "http_port", "grpc_port", "metrics_port", "instances", "threads")},
        batching=BatchOptions(**{name: options[name] for name in (*batching, "default_timeout_microseconds")}),
        fallback=not options["no_fallback"],
        control=options["model_control_mode"] == "explicit",
        exit_timeout_s=options["exit_timeout_secs"],
        limits=Limits(
            max_body_bytes=options["max_body_mb"] << 20,
            head_timeout_s=options["head_timeout_secs"],
            body_timeout_s=options["body_timeout_secs"],
        ),
    )
    if options["shadow_rate"]:
        shadow = shadow_options(options)
        serve_options = replace(serve_options, shadow=shadow, reference_of=eager_reference)
        if options["shadow_baselines"]:
            find = baselines_in(options["shadow_baselines"], shadow, specs)
            serve_options = replace(serve_options, baseline_of=find)
    require_here(specs)
    configure_logs(options["log_level"])

    def announce(ports: Ports) -> None:
        host = f"[{serve_options.host}]" if ":" in serve_options.host else serve_options.host
        if as_json:
            row = {"http_port": ports.http, "grpc_port": ports.grpc, "metrics_port": ports.metrics}
            click.echo(json.dumps({"schema_version": 1, "host": serve_options.host, **row}))
            return
        show(
            f"HTTP http://{host}:{ports.http}  gRPC {host}:{ports.grpc}  metrics http://{host}:{ports.metrics}/metrics"
        )

    run(specs, serve_options, announce)


def _refuse_idle_options(ctx: click.Context) -> None:
    """Raise `UsageError` for an option of the shadow check if the check is off."""
    names = ("no_shadow_copy", "shadow_baselines", "shadow_interval", "no_shadow_scenes")
    for option in given_options(ctx, *names, "on_drift", "shadow_dir", "shadow_quota_mb"):
        raise UsageError(f"{option}: nothing is checked without --shadow-rate; give one, such as 0.01")


def shadow_options(options: dict[str, Any]) -> "ShadowOptions":
    """The shadow check that the options ask for. Raises `UsageError` for values that make no sense."""
    from resnetrt.runtime.shadow import ShadowOptions

    directory, quota = options["shadow_dir"], options["shadow_quota_mb"] << 20
    return ShadowOptions(
        options["shadow_rate"],
        on_drift=options["on_drift"],
        directory=directory,
        quota_bytes=quota,
        copy=not options["no_shadow_copy"],
        interval_s=options["shadow_interval"],
        scenes=not options["no_shadow_scenes"],
    )


def baselines_in(
    paths: Sequence[Path], options: "ShadowOptions", specs: "list[ModelSpec]"
) -> "Callable[[Bundle, str], Baseline | None]":
    """A function that finds an engine's baseline in the files; a fallback engine in no file gets None and a warning.

    Raises `DataError` if an engine that is to be served is in no file.
    """
    from resnetrt.benchmarks.accuracy.shadow_baseline import baseline_from_results
    from resnetrt.bundle import Bundle

    def find(bundle: Bundle, engine: str) -> "Baseline | None":
        try:
            return baseline_from_results(paths, bundle, engine, options)
        except DataError as error:
            logging.getLogger("resnetrt.serve").warning("its golden images are taken instead: %s", error)
            return None

    for spec in specs:
        bundle = Bundle.open(spec.path)
        baseline_from_results(paths, bundle, bundle.select_engine(spec.engine), options)
    return find


def eager_reference(bundle: "Bundle") -> "Reference | None":
    """The eager model if torch and the weights are available here; else None."""
    if importlib.util.find_spec("torch") is None:
        return None
    from resnetrt.benchmarks.verify.reference import find_reference

    reference = find_reference(bundle)
    return None if reference.why else reference.infer


def require_here(specs: "list[ModelSpec]") -> None:
    """Raise in one line, before a port is opened, for an engine that is not there or that this machine can't run."""
    from resnetrt.bundle import Bundle
    from resnetrt.export.engines.here import engines_here
    from resnetrt.runtime.serving.options import check_names

    check_names(specs)
    for spec in specs:
        bundle = Bundle.open(spec.path)
        engines_here(bundle, [bundle.select_engine(spec.engine)])


def model_specs(bundles: tuple[str, ...], engines: tuple[str, ...]) -> list["ModelSpec"]:
    """The bundles by name: the text before `=`, or else the manifest's as an address has it. Raises `UsageError`."""
    from resnetrt.bundle import Bundle
    from resnetrt.manifest import served_name
    from resnetrt.runtime.serving import ModelSpec

    specs = []
    for text in bundles:
        name, separator, path = text.partition("=")
        if not separator or "/" in name or Path(text).exists():
            name, path = "", text
        specs.append((name or served_name(Bundle.open(path).manifest.name), Path(path)))
    chosen: dict[str | None, str] = {}
    for text in engines:
        model, separator, engine = text.rpartition("=")
        if separator and model not in [name for name, _ in specs]:
            raise UsageError.unknown("model of --engine", model, [name for name, _ in specs])
        key = model if separator else None
        if key in chosen:
            raise UsageError(f"--engine: expected one engine of {key or 'all'}, found {chosen[key]} and {engine}")
        chosen[key] = engine
    return [ModelSpec(name, path, chosen.get(name, chosen.get(None))) for name, path in specs]
