"""`package triton`: engines of a bundle as a Triton model repository.

For each model of OUT: `config.pbtxt` (batching, labels, warm-up; manifest hash and engine id in `parameters`),
`labels.txt`, `warmup/golden-image`, and version `1/` with `model.onnx` or `model.plan` and the bundle's manifest.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.atomic import exchange_directories, staging
from resnetrt.bundle import MANIFEST, Bundle, sha256_of
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import UsageError
from resnetrt.export.packages.model_config import (
    LABELS,
    WARM_UP_IMAGE,
    ServingOptions,
    build_config,
    platform_of,
    protobuf_messages,
    server_flags,
    to_text,
)
from resnetrt.golden import Golden
from resnetrt.manifest import served_name

_VERSION = "1"


@dataclass(frozen=True)
class PackagedModel:
    """A model in the repository: its name, the engine it holds, how Triton runs it, and its folder.

    `server_flags` are options without which `tritonserver` does not load it.
    """

    name: str
    engine: str
    platform: str
    max_batch_size: int
    path: Path
    server_flags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values under the field names."""
        return asdict(self) | {"path": str(self.path)}


def package_triton(
    bundle: Bundle, out: Path, engines: Sequence[str], options: ServingOptions, overwrite: bool = False
) -> list[PackagedModel]:
    """Write a model for each of `engines` (default the only one) into the repository `out`, which may hold others.

    Each model appears whole or not at all. Raises `UsageError` for engines that Triton can't run and for models that
    are there already (unless `overwrite`), `BackendMissing` without tritonclient.
    """
    protobuf_messages()
    names = [bundle.select_engine(engine) for engine in dict.fromkeys(engines) or [None]]
    _check_out(out)
    models = {_model_name(bundle, engine, len(names) == 1): engine for engine in names}
    for name in models:
        if (out / name).exists() and not overwrite:
            raise UsageError(f"--out {out}: a model {name} is there already; add --overwrite to replace it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with staging(out) as staged:
        made = [_write_model(bundle, engine, name, staged / name, options) for name, engine in models.items()]
        out.mkdir(exist_ok=True)
        for name in models:
            _put(staged / name, out / name)
    return [PackagedModel(**(vars(model) | {"path": out / model.name})) for model in made]


def _check_out(out: Path) -> None:
    if out.name == "triton":
        raise UsageError(
            f"--out {out}: a folder named triton hides the package torch needs when Python runs beside it; "
            "name it model_repository"
        )
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: expected a folder, found a file; choose another path")


def _model_name(bundle: Bundle, engine: str, only: bool) -> str:
    """The bundle's name, with the engine's where several stand side by side."""
    name = served_name(bundle.manifest.name if only else f"{bundle.manifest.name}.{engine}")
    return "model_triton" if name == "triton" else name


def _write_model(bundle: Bundle, engine: str, name: str, folder: Path, options: ServingOptions) -> PackagedModel:
    entry, record = bundle.manifest.engines[engine], bundle.read_engine(engine)
    platform = platform_of(record)
    labels, manifest_path = bundle.manifest.labels, bundle.path / MANIFEST
    parameters = {
        "resnetrt_bundle": bundle.manifest.name,
        "resnetrt_engine": engine,
        "resnetrt_manifest_sha256": sha256_of(manifest_path),
    }
    labelled = bundle.manifest.output if labels else None
    config = build_config(name, record, options, parameters, labelled)
    (folder / _VERSION).mkdir(parents=True)
    (folder / "warmup").mkdir()
    source = bundle.variant_file(entry.variant) if platform.takes_variant else bundle.file(entry.file)
    shutil.copyfile(source, folder / _VERSION / platform.file)
    shutil.copyfile(manifest_path, folder / _VERSION / MANIFEST)
    if labels:
        (folder / LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    (folder / "warmup" / WARM_UP_IMAGE).write_bytes(_warm_up_image(bundle, record))
    (folder / "config.pbtxt").write_text(to_text(config), encoding="utf-8")
    return PackagedModel(
        name, engine, platform.platform or platform.backend, config.max_batch_size, folder, server_flags(record)
    )


def _warm_up_image(bundle: Bundle, record: EngineRecord) -> bytes:
    """The first golden image as the engine takes it, raw; for an engine of one batch size a whole batch of it."""
    spec = record.inputs[0]
    frames = Golden.of(bundle).frames[:1]
    image = frames if spec.dtype == "uint8" else bundle.manifest.preprocessing.normalize(frames)
    batch = np.repeat(image.astype(spec.dtype, copy=False), spec.shape[0] or 1, 0)
    return np.ascontiguousarray(batch).tobytes()


def _put(staged: Path, place: Path) -> None:
    if place.exists():
        exchange_directories(staged, place)
    else:
        staged.rename(place)
