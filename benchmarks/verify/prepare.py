"""From command-line arguments to an export request: model, preprocessing, golden images; and a hash of its inputs."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.verify.parity import golden_frames
from resnetrt.conditions import tool_versions
from resnetrt.errors import UsageError
from resnetrt.export.fp32.export import ExportRequest
from resnetrt.machine import read_cpu
from resnetrt.models.recipes import read_recipe
from resnetrt.models.resolve import ResolvedModel, resolve
from resnetrt.preprocess import Preprocessing
from resnetrt.progress import working

_MAKERS = ("core", "models", "export", "calibration")  # folders whose code determines the content of a bundle


def prepare_export(
    model: str,
    weights: Path | None = None,
    golden_data: str = "fashion_test",
    golden_count: int = 32,
    labels: Sequence[str] = (),
    size: int | None = None,
    resize: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    recipe: Path | None = None,
    opset: int = 20,
    **options: Any,
) -> ExportRequest:
    """Resolve `model` and choose its golden images.

    The preprocessing is that of the file `recipe`, else the model's own; `size`, `resize`, `mean` and `std` change it.
    Raises `UsageError`, `WeightsError`, `DataError` or `BackendMissing` with a one-line message.
    """
    with working(f"building {model}"):
        resolved = resolve(model, weights, **options)
    preprocessing = _preprocessing(resolved, _base(resolved, recipe), size, resize, mean, std)
    frames = golden_frames(golden_data, preprocessing, golden_count)
    source = {} if resolved.weights is None else asdict(resolved.weights)
    return ExportRequest(
        name=resolved.name,
        module=resolved.module,
        preprocessing=preprocessing,
        labels=tuple(labels) or resolved.labels,
        spec=resolved.spec,
        weights=source,
        golden_frames=frames,
        golden_source=golden_data,
        opset=opset,
    )


def _base(resolved: ResolvedModel, recipe: Path | None) -> Preprocessing:
    """The preprocessing before single values are changed."""
    own = resolved.preprocessing
    if recipe is None:
        return own
    base = read_recipe(recipe)
    if base.channels != own.channels:
        raise UsageError(
            f"recipe {recipe}: expected {own.channels} channels for {resolved.name}, found {base.channels}"
        )
    return base


def _preprocessing(
    resolved: ResolvedModel,
    base: Preprocessing,
    size: int | None,
    resize: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Preprocessing:
    for name, values in (("--mean", mean), ("--std", std)):
        if values is not None and len(values) != base.channels:
            raise UsageError(f"{name}: expected {base.channels} numbers for {resolved.name}, found {len(values)}")
    edge = min(base.size)
    chosen = base.size if size is None else (size, size)
    # the cropped margin stays the same share
    shorter = resize if resize is not None else round(base.resize * min(chosen) / edge)
    return replace(base, size=chosen, resize=shorter, mean=tuple(mean or base.mean), std=tuple(std or base.std))


@cache
def recipe_hash() -> str:
    """A hash of twelve hex digits over what determines a bundle's content: source code, tool versions, processor."""
    digest = hashlib.sha256(repr((sorted(tool_versions().items()), read_cpu())).encode())
    root = Path(__file__).resolve().parents[2]
    for folder in _MAKERS:
        place = root / folder if (root / folder).is_dir() else root  # in an installation, core is the package itself
        for path in sorted(place.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
