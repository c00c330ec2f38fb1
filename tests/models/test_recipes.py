"""Preprocessing recipes in files: three kinds, and what is refused."""

import json
import logging

import pytest

from resnetrt.errors import UsageError
from resnetrt.models.recipes import read_recipe
from resnetrt.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

IMAGENET = Preprocessing("RGB", 256, (224, 224), IMAGENET_MEAN, IMAGENET_STD)
MOMENTS = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
# what timm writes to a hub for resnet18.tv_in1k, shortened, and what torchvision's ResNet18_Weights.transforms() holds
TIMM = {"input_size": [3, 224, 224], "interpolation": "bilinear", "crop_pct": 0.875, "crop_mode": "center", **MOMENTS}
TORCHVISION = {
    "crop_size": [224],
    "resize_size": [256],
    "interpolation": "InterpolationMode.BILINEAR",
    "antialias": True,
    **MOMENTS,
}


def write(tmp_path, record):
    path = tmp_path / "recipe.json"
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    return path


@pytest.mark.parametrize(
    "record",
    [
        IMAGENET.to_json(),
        {"format": 3, "preprocessing": IMAGENET.to_json()},
        TIMM,
        {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": TIMM},
        TORCHVISION,
        TORCHVISION | {"crop_size": 224, "resize_size": 256},
    ],
)
def test_each_kind_gives_the_same(tmp_path, record, caplog):
    assert read_recipe(write(tmp_path, record)) == IMAGENET
    assert caplog.messages == []


def test_grey_images(tmp_path):
    record = TIMM | {"input_size": [1, 28, 30], "mean": [0.5], "std": [0.25], "crop_pct": 1.0}
    assert read_recipe(write(tmp_path, record)) == Preprocessing("L", 30, (28, 30), (0.5,), (0.25,))


@pytest.mark.parametrize("record", [TIMM | {"interpolation": "bicubic"}, TORCHVISION | {"interpolation": "bicubic"}])
def test_another_filter_is_said(tmp_path, record, caplog):
    caplog.set_level(logging.WARNING)
    path = write(tmp_path, record)
    assert read_recipe(path) == IMAGENET
    assert caplog.messages == [f"recipe {path} resizes bicubic, resnetrt bilinear: accuracy may differ"]


def test_another_crop_is_said(tmp_path, caplog):
    path = write(tmp_path, TIMM | {"crop_mode": "squash"})
    assert read_recipe(path) == IMAGENET
    assert caplog.messages == [f"recipe {path} crops by squash, resnetrt at the centre: accuracy may differ"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "expected a JSON file, found"),
        ([1], "found a wrong or missing value"),
        ({}, "expected .*, found nothing"),
        ({"size": 3}, "expected resize_shorter_side, .*, found size"),
        ({key: value for key, value in TIMM.items() if key != "std"}, "wrong or missing value: KeyError.'std'"),
        (TIMM | {"crop_pct": "all"}, "wrong or missing value"),
        (TIMM | {"std": [0, 1, 1]}, "std: expected positive numbers"),
        (TIMM | {"mean": [0.5]}, "mode RGB has 3 channels, found 1 means"),
        (TORCHVISION | {"resize_size": [256, 256]}, "resize_size: expected one number, for the shorter side"),
        (IMAGENET.to_json() | {"interpolation": "nearest"}, "interpolation: expected bilinear-antialias"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, record, message):
    path = write(tmp_path, record)
    with pytest.raises(UsageError, match=message) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(f"recipe {path}: ")
    assert str(caught.value).count(str(path)) == 1
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(UsageError, match=r"expected a JSON file, found .*No such file"):
        read_recipe(tmp_path / "recipe.json")
