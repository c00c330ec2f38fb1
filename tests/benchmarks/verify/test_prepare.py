"""The preprocessing that a network is exported with."""

import json

import pytest

from resnetrt.benchmarks.verify.prepare import prepare_export
from resnetrt.errors import UsageError
from resnetrt.preprocess import Preprocessing


@pytest.mark.parametrize(
    ("given", "size", "resize"),
    [({}, 224, 256), ({"size": 224}, 224, 256), ({"size": 112}, 112, 128), ({"size": 224, "resize": 232}, 224, 232)],
)
def test_another_size_keeps_the_share_that_is_cropped(given, size, resize):
    preprocessing = prepare_export("resnet18", golden_count=16, **given).preprocessing
    assert (preprocessing.size, preprocessing.resize) == ((size, size), resize)


GREY = Preprocessing("L", 40, (32, 32), (0.25,), (0.5,))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, GREY),
        ({"size": 28}, Preprocessing("L", 35, (28, 28), (0.25,), (0.5,))),
        ({"std": (1.0,)}, Preprocessing("L", 40, (32, 32), (0.25,), (1.0,))),
    ],
)
def test_a_recipe_replaces_the_model_s_own_and_options_change_it(tmp_path, given, expected):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(GREY.to_json()))
    assert prepare_export("fashion_resnet20", golden_count=16, recipe=path, **given).preprocessing == expected
    with pytest.raises(UsageError, match=r"recipe\.json: expected 3 channels for resnet18, found 1"):
        prepare_export("resnet18", golden_count=16, recipe=path)
