"""The preprocessing that a network is exported with."""

import pytest

from resnetrt.benchmarks.verify.prepare import prepare_export


@pytest.mark.parametrize(
    ("given", "size", "resize"),
    [({}, 224, 256), ({"size": 224}, 224, 256), ({"size": 112}, 112, 128), ({"size": 224, "resize": 232}, 224, 232)],
)
def test_another_size_keeps_the_share_that_is_cropped(given, size, resize):
    found = prepare_export("resnet18", golden_count=16, **given).preprocessing
    assert (found.size, found.resize) == ((size, size), resize)
