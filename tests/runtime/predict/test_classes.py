"""The order, the labels and the probabilities of the likeliest classes."""

import numpy as np
import pytest

from resnetrt.errors import CheckFailed, UsageError
from resnetrt.runtime.predict.classes import Prediction, top_classes


def test_probabilities_are_the_softmax_likeliest_first():
    (classes,) = top_classes(np.log(np.array([[1.0, 6.0, 3.0]], np.float32)), 2, ("a", "b", "c"), "engine e")
    assert [(item.label, item.index) for item in classes] == [("b", 1), ("c", 2)]
    np.testing.assert_allclose([item.probability for item in classes], [0.6, 0.3], rtol=1e-6)


def test_of_equal_classes_the_first_comes_first_and_more_than_there_are_is_all():
    (classes,) = top_classes(np.zeros((1, 3), np.float32), 9, None, "engine e")
    assert [item.index for item in classes] == [0, 1, 2]


def test_large_logits_do_not_overflow():
    (classes,) = top_classes(np.array([[1e4, -1e4]], np.float32), 2, None, "engine e")
    assert [item.probability for item in classes] == [1.0, 0.0]


def test_a_class_without_a_label_shows_its_number():
    (classes,) = top_classes(np.array([[0.0, 1.0]], np.float16), 2, ("first",), "engine e")
    assert [item.name for item in classes] == ["class 1", "first"]
    assert classes[0] == Prediction(None, 1, classes[0].probability)
    assert classes[0].to_json() == {"label": None, "index": 1, "probability": classes[0].probability}


@pytest.mark.parametrize("shape", [(2, 1), (2, 3, 4)])
def test_what_is_no_logits_of_classes_is_refused(shape: tuple[int, ...]):
    with pytest.raises(UsageError, match="engine e: expected logits of at least 2 classes"):
        top_classes(np.zeros(shape, np.float32), 5, None, "engine e")


def test_none_at_all_is_refused():
    with pytest.raises(UsageError, match="top: expected at least 1, found 0"):
        top_classes(np.zeros((1, 2), np.float32), 0, None, "engine e")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_no_probabilities(value: float):
    with pytest.raises(CheckFailed, match="engine e: expected finite logits"):
        top_classes(np.array([[0, value]], np.float32), 5, None, "engine e")
