"""The picture of flipped images: a tile for each, and words where there is none."""

import numpy as np

from resnetrt.benchmarks.evaluate.flips import Flip, draw_contact_sheet
from resnetrt.calibration.images.data import open_dataset
from resnetrt.preprocess import Preprocessing

RECIPE = Preprocessing("L", 28, (28, 28), (0.5,), (0.5,))
FLIP = Flip(0, 0, "image", "cat", "cat", "dog", 0.5, 0.1, True)


def test_a_sheet_has_rows_for_the_flips_there_are_and_says_so_where_there_are_none():
    dataset = open_dataset("fashion_test", RECIPE)
    none, one, seven = (draw_contact_sheet([FLIP] * count, dataset, "a title") for count in (0, 1, 7))
    assert none.size == (one.width, 60)  # no empty row below the words
    assert seven.width > one.width
    assert seven.height - one.height == one.height - none.height
    assert (np.asarray(none)[25:45] < 128 + 32).any()  # the line below the title
