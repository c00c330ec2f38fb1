"""The bundles that checks share: exported once for a run, or made beforehand on any machine and carried along."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

TRAINED = "fashion_resnet20"  # embedded; the others have random weights
_CALIBRATION_IMAGES = 256


def bundle_name(network: str) -> str:
    """The folder of a network's bundle."""
    return f"{network}.bundle"


def make_bundle(path: str, network: str) -> dict[str, Any]:
    """Export `network` to `path` with all variants that checks compile; the trained one also in INT8."""
    from resnetrt.benchmarks.verify.prepare import prepare_export
    from resnetrt.bundle import Bundle
    from resnetrt.calibration.observe.collect import calibrate_bundle
    from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
    from resnetrt.export.engines.compile import choose_variant
    from resnetrt.export.fp32.export import export_bundle

    bundle, _ = export_bundle(prepare_export(network), Path(path))
    precisions = ["fp16"]
    if network == TRAINED:
        calibrate_bundle(bundle, "fashion_calib", _CALIBRATION_IMAGES)
        quantize_variant(bundle, "tensorrt", QuantizeOptions("mse"))
        precisions.append("int8")
    for precision in precisions:  # casts for TensorRT: the machine with the GPU may lack the package onnx
        choose_variant(bundle, "tensorrt", precision)
    return {"variants": sorted(Bundle.open(path).manifest.variants)}


def find_carried(folder: Path | None, network: str) -> Path | None:
    """The bundle of `network` in the carried folder; None if it is not there."""
    path = None if folder is None else folder / bundle_name(network)
    return path if path is not None and path.is_dir() else None


def carried_cubins(folder: Path | None) -> list[Path]:
    """The kernels in the carried folder, one file for each kind of GPU."""
    return [] if folder is None else sorted(folder.glob("kernels-sm*.cubin"))


def prepare(folder: Path, networks: Iterable[str]) -> list[Path]:
    """Make the missing bundles of `networks` in `folder`, for `--bundle`; no GPU is needed."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / bundle_name(network) for network in networks]
    for network, path in zip(networks, paths, strict=True):
        if not path.is_dir():
            make_bundle(str(path), network)
    return paths
