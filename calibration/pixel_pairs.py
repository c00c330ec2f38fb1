"""Two neighbouring pixels of a row as one position with twice the channels.

A convolution that steps by two columns is then one that steps by one over half as many columns, with the same products;
a row of frames `(N, H, W, C)` is already a row of pairs `(N, H, W/2, 2 C)`, so nothing moves.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


@dataclass(frozen=True)
class PairedKernel:
    """Weights `(outputs, pixel of the pair, channels, kH, kW in pairs)` and attributes of the new convolution."""

    weights: npt.NDArray[np.float32]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]


def pair_columns(layer: ir.Node, weights: npt.NDArray[np.float32], width: int) -> PairedKernel | None:
    """The convolution `layer` over an image `width` wide, with `weights` `(outputs, channels, kH, kW)`, for pairs.

    None where pairs would not do: columns that don't step by two, dilation, an odd width, automatic padding. A pair
    lies inside the image or outside as a whole, so zero padding stays what it was.
    """
    rows, columns = layer.attributes.get_ints("strides", (1, 1))
    top, left, bottom, right = layer.attributes.get_ints("pads", (0, 0, 0, 0))
    automatic = layer.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
    dilated = tuple(layer.attributes.get_ints("dilations", (1, 1))) != (1, 1)
    if columns != 2 or width % 2 or dilated or automatic:
        return None
    outputs, channels, height, taps = weights.shape
    left_pairs = -(-left // 2)
    lead = 2 * left_pairs - left  # columns between the first pair's beginning and the kernel's
    pairs = -(-(lead + taps) // 2)
    positions = (width + left + right - taps) // 2 + 1
    right_pairs = positions - 1 + pairs - width // 2 - left_pairs
    spread = np.zeros((outputs, channels, height, 2 * pairs), np.float32)
    spread[..., lead : lead + taps] = weights
    split = spread.reshape(outputs, channels, height, pairs, 2).transpose(0, 4, 1, 2, 3)
    return PairedKernel(np.ascontiguousarray(split), (rows, 1), (top, left_pairs, bottom, right_pairs))
