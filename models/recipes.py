"""Preprocessing recipes in files: this project's own, timm's and torchvision's."""

import json
import logging
from pathlib import Path
from typing import Any

from resnetrt.errors import UsageError
from resnetrt.preprocess import Preprocessing

_log = logging.getLogger(__name__)

_KINDS = (
    "resize_shorter_side, crop, mean, std (resnetrt); input_size, crop_pct, mean, std (timm); or "
    "resize_size, crop_size, mean, std (torchvision)"
)


def read_recipe(path: Path) -> Preprocessing:
    """The preprocessing in the JSON file `path`.

    It is `Preprocessing.to_json` (also within a bundle's manifest.json), timm's `config.json` or data configuration, or
    the attributes of torchvision's `weights.transforms()`. Raises `UsageError`.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"recipe {path}: expected a JSON file, found {error}") from error
    try:
        for key in ("preprocessing", "pretrained_cfg"):
            record = record.get(key, record)
        if "resize_shorter_side" in record:
            return Preprocessing.from_json(record)
        if "input_size" in record:
            return of_timm(f"recipe {path}", record)
        if "resize_size" in record:
            return _of_torchvision(f"recipe {path}", record)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(f"recipe {path}: expected {_KINDS}, found a wrong or missing value: {error!r}") from error
    except UsageError as error:
        raise UsageError(f"recipe {path}: {error}") from error
    raise UsageError(f"recipe {path}: expected {_KINDS}, found {', '.join(map(str, record)) or 'nothing'}")


def of_timm(what: str, config: dict[str, Any]) -> Preprocessing:
    """The size, crop, mean and std of timm's data configuration; another filter or crop is replaced, with a warning."""
    _warn_of_filter(what, str(config.get("interpolation", "bilinear")))
    if (mode := config.get("crop_mode") or "center") != "center":
        _log.warning("%s crops by %s, resnetrt at the centre: accuracy may differ", what, mode)
    channels, height, width = map(int, config["input_size"])
    resize = max(int(max(height, width) / float(config["crop_pct"])), height, width)
    return _recipe(channels, resize, (height, width), config)


def _of_torchvision(what: str, record: dict[str, Any]) -> Preprocessing:
    """The attributes of `torchvision.transforms._presets.ImageClassification`, sizes as lists or numbers."""
    _warn_of_filter(what, str(record.get("interpolation", "bilinear")).rpartition(".")[2].lower())
    resize, crop = (
        [value] if isinstance(value, int) else value for value in (record["resize_size"], record["crop_size"])
    )
    if len(resize) != 1:
        raise UsageError(f"resize_size: expected one number, for the shorter side, found {resize}")
    return _recipe(len(record["mean"]), int(resize[0]), (int(crop[0]), int(crop[-1])), record)


def _recipe(channels: int, resize: int, size: tuple[int, int], record: dict[str, Any]) -> Preprocessing:
    mean, std = (tuple(map(float, record[name])) for name in ("mean", "std"))
    return Preprocessing("L" if channels == 1 else "RGB", resize, size, mean, std)


def _warn_of_filter(what: str, interpolation: str) -> None:
    if interpolation != "bilinear":
        _log.warning("%s resizes %s, resnetrt bilinear: accuracy may differ", what, interpolation)
