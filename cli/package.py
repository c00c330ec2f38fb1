"""`resnetrt package`: a bundle in the layout of other servers, or for a device."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resnetrt.cli.options import (
    INTEGERS,
    NEW_PATH,
    WORDS,
    CommaList,
    bundle_argument,
    input_option,
    json_option,
    with_options,
)
from resnetrt.cli.output import emit_json, print_table
from resnetrt.progress import show

if TYPE_CHECKING:
    from resnetrt.export.packages import DevicePackage, PackagedModel, ServingOptions

_SERVING: list[Any] = [
    click.option("--out", type=NEW_PATH, required=True, help="Folder to write."),
    click.option("--engine", "engines", multiple=True, help="Engine id; may be repeated. Default: the only one."),
    click.option("--max-batch-size", type=click.IntRange(1), default=8, show_default=True, help="Largest batch."),
    click.option("--preferred-batch-size", type=INTEGERS, default=(), help="Batch sizes to wait for, as 4,8."),
    click.option(
        "--max-queue-delay-microseconds",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="How long a request may wait for others; at 0 batches form while one runs.",
    ),
    click.option("--instances", type=click.IntRange(1), default=1, show_default=True, help="Engines side by side."),
    click.option(
        "--gpus", type=CommaList(int, "numbers"), default=(), help="GPUs for --instances each, as 0,1. Default: all."
    ),
    click.option("--overwrite", is_flag=True, help="Replace what is there."),
    json_option,
]


@click.group("package")
def command() -> None:
    """Package a bundle for a device, for Triton Inference Server or KServe."""


@command.command("triton")
@bundle_argument
@with_options(_SERVING)
def triton(bundle: Path, out: Path, engines: tuple[str, ...], overwrite: bool, as_json: bool, **given: Any) -> None:
    """Write engines of BUNDLE into the Triton model repository --out."""
    from resnetrt.bundle import Bundle
    from resnetrt.export.packages import package_triton

    models = package_triton(Bundle.open(bundle), out, engines, _options(given), overwrite)
    if as_json:
        emit_json({"bundle": str(bundle), "out": str(out), "models": [model.to_json() for model in models]})
        return
    _print(models)
    flags = sorted({flag for model in models for flag in model.server_flags})
    click.echo(" ".join([f"serve it with: tritonserver --model-repository={shlex.quote(str(out))}", *flags]))


@command.command("kserve")
@bundle_argument
@with_options(_SERVING)
@click.option("--storage-uri", required=True, help="Where the cluster will find the repository: s3://bucket/path.")
@click.option("--name", help="Of the InferenceService. Default: the bundle's name.")
@click.option("--min-replicas", type=int, default=1, show_default=True, help="Pods at least; 0 scales to none.")
@click.option("--max-replicas", type=int, default=1, show_default=True, help="Pods at most.")
@click.option("--cpu", default="2", show_default=True, help="Cores of a pod.")
@click.option("--memory", default="4Gi", show_default=True, help="Memory of a pod.")
def kserve(bundle: Path, out: Path, engines: tuple[str, ...], overwrite: bool, as_json: bool, **given: Any) -> None:
    """Write an InferenceService that runs Triton, and the model repository to upload to --storage-uri."""
    from resnetrt.bundle import Bundle
    from resnetrt.export.packages import ServiceOptions, package_kserve

    names = ("storage_uri", "name", "min_replicas", "max_replicas", "cpu", "memory")
    service = ServiceOptions(**{name: given.pop(name) for name in names})
    path, models = package_kserve(Bundle.open(bundle), out, engines, service, _options(given), overwrite)
    if as_json:
        emit_json({"bundle": str(bundle), "service": str(path), "models": [model.to_json() for model in models]})
        return
    _print(models)
    apply = f"kubectl apply -f {shlex.quote(str(path))}"
    click.echo(f"upload {models[0].path.parent}/ to {service.storage_uri}, then: {apply}")


@command.command("device")
@bundle_argument
@click.option("--out", type=NEW_PATH, required=True, help="The bundle to write.")
@click.option("--for", "backends", type=WORDS, default=(), help="Its backends, as tensorrt,onnxruntime. Default: all.")
@click.option("--precisions", type=WORDS, default=(), help="Such as fp16,int8. Default: all that the bundle has.")
@click.option("--engines", type=WORDS, default=(), help="Ids of engines to take too. Default: none.")
@input_option("Variants that take normalised images, or frames (uint8).")
@click.option("--overwrite", is_flag=True, help="Replace the bundle that is there.")
@json_option
def device(bundle: Path, out: Path, overwrite: bool, as_json: bool, **given: Any) -> None:
    """Write the bundle --out with what a device needs of BUNDLE: variants, golden images, labels, evidence.

    FP16 and INT8 over FP16 are made first where BUNDLE lacks them. Without the FP32 variant a device can compile,
    verify, audit, bench (times without a factor), predict and serve, but not evaluate or shadow-check.
    """
    from resnetrt.bundle import Bundle
    from resnetrt.export.packages import package_device

    package = package_device(Bundle.open(bundle), out, overwrite=overwrite, **given)
    if as_json:
        emit_json({"bundle": str(bundle), **package.to_json()})
        return
    _print_device(bundle, package)


def _options(given: dict[str, Any]) -> "ServingOptions":
    from resnetrt.export.packages import ServingOptions

    return ServingOptions(**given)


def _print(models: "Sequence[PackagedModel]") -> None:
    for model in models:
        click.echo(f"{model.path}: {model.engine} as {model.platform}, batches up to {max(model.max_batch_size, 1)}")


def _print_device(source: Path, package: "DevicePackage") -> None:
    sizes, out = package.sizes, package.bundle.path
    if package.made:
        show(f"made in {source} first: {', '.join(package.made)}")
    rows = [(name, f"{size / 1e6:.2f}") for name, size in [*sizes.items(), ("total", sum(sizes.values()))]]
    print_table(f"{out}", ("file", "MB"), rows)
    if package.left_out:
        click.echo(f"left out: {', '.join(package.left_out)} ({package.left_out_bytes / 1e6:.2f} MB)")
    if "fp32" not in package.bundle.manifest.variants:
        show("without fp32: evaluate and the shadow check will refuse, bench has no baseline; the rest runs")
