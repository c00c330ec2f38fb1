"""A convolution that steps by two columns equals one over pairs of pixels, for every shape."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resnetrt.calibration.pixel_pairs import pair_columns


def convolution(**attributes: object) -> ir.Node:
    value = ir.Value(name="x")
    return ir.node("Conv", [value, ir.Value(name="w")], attributes)


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 8)),
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    rows=st.integers(1, 3),
    width=st.integers(4, 9).map(lambda half: 2 * half),
    channels=st.integers(1, 3),
)
def test_the_same_products(
    kernel: tuple[int, int], pads: tuple[int, int, int, int], rows: int, width: int, channels: int
):
    rng = np.random.default_rng(1)
    weights = rng.integers(-9, 10, (2, channels, *kernel)).astype(np.float32)
    image = rng.integers(0, 256, (1, 5, width, channels)).astype(np.float32)
    paired = pair_columns(convolution(strides=[rows, 2], pads=list(pads)), weights, width)
    assert paired is not None
    assert min(paired.pads) >= 0

    expected = run(image, weights, (rows, 2), pads)
    outputs, pixels, _, *shape = paired.weights.shape
    in_pairs = image.reshape(1, 5, width // 2, pixels * channels)
    found = run(in_pairs, paired.weights.reshape(outputs, pixels * channels, *shape), paired.strides, paired.pads)
    assert np.array_equal(found, expected)


def run(
    image: np.ndarray, weights: np.ndarray, strides: tuple[int, int], pads: tuple[int, int, int, int]
) -> np.ndarray:
    top, left, bottom, right = pads
    padded = torch.nn.functional.pad(torch.from_numpy(image).movedim(-1, 1), (left, right, top, bottom))
    return torch.nn.functional.conv2d(padded, torch.from_numpy(weights), stride=strides).numpy()


@pytest.mark.parametrize(
    ("attributes", "width"),
    [
        ({"strides": [2, 1]}, 8),
        ({}, 8),
        ({"strides": [2, 2]}, 7),
        ({"strides": [2, 2], "dilations": [1, 2]}, 8),
        ({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, 8),
    ],
)
def test_where_pairs_would_change_something(attributes: dict[str, object], width: int):
    assert pair_columns(convolution(**attributes), np.ones((1, 1, 3, 3), np.float32), width) is None
