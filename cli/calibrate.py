"""`resnetrt calibrate`: measure activation ranges once."""

from pathlib import Path

import click

from resnetrt.cli.options import NEW_PATH, bundle_argument, json_option
from resnetrt.cli.output import emit_json


@click.command("calibrate")
@bundle_argument
@click.option("--data", required=True, help="Image folder, .npz, or an embedded set such as fashion_calib.")
@click.option("--samples", type=click.IntRange(1), default=512, show_default=True, help="Images at most.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which images, when there are more.")
@click.option("--ray", help="Run on a Ray cluster: auto (the one here), local, or its address.")
@click.option("--no-equalize", is_flag=True, help="Measure the network as it is, channels not equalized.")
@click.option("--write-trt-cache", type=NEW_PATH, help="Also a TensorRT cache, as text; not equalized.")
@click.option("--trt-method", default="mse", show_default=True, help="Range method of the scales in the cache.")
@click.option("--trt-version", default="10.3.0", show_default=True, help="The TensorRT that is to take the cache.")
@click.option("--overwrite", is_flag=True, help="Drop the variants and engines that another record was used for.")
@json_option
def command(
    bundle: Path,
    data: str,
    samples: int,
    seed: int,
    ray: str | None,
    no_equalize: bool,
    write_trt_cache: Path | None,
    trt_method: str,
    trt_version: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Run calibration images through BUNDLE's FP32 model and store the calibration record."""
    from resnetrt.bundle import Bundle
    from resnetrt.calibration.imports.trt_cache import check_header, write_cache
    from resnetrt.calibration.observe.collect import calibrate_bundle

    check_header(trt_method, trt_version)
    opened, runner = Bundle.open(bundle), None
    if ray is not None:
        from resnetrt.benchmarks.cluster.calibrate import runner_on_ray

        runner = runner_on_ray(opened, data, samples, seed, ray)
    equalized = not no_equalize and write_trt_cache is None
    variants = set(opened.manifest.variants)
    record = calibrate_bundle(opened, data, samples, seed, equalized, runner, overwrite)
    dropped = sorted(variants - opened.manifest.variants.keys())
    if write_trt_cache is not None:
        write_cache(write_trt_cache, record, trt_method, trt_version)
    if as_json:
        sizes = {"images": len(record.image_hashes), "tensors": len(record.tensors)}
        emit_json({"bundle": str(bundle), **sizes, "equalized": bool(record.equalization), "dropped_variants": dropped})
        return
    click.echo(f"{bundle}: {len(record.tensors)} tensors over {len(record.image_hashes)} images of {record.dataset}")
    if dropped:
        click.echo(f"dropped variants of another record, and their engines; quantize again: {', '.join(dropped)}")
