"""Class folders become labels by name, by number or by sorted order, or are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnetrt.calibration.images.class_labels import assign_labels
from resnetrt.errors import DataError

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.parametrize(
    ("folders", "labels", "classes", "indices", "order"),
    [
        (["bird", "truck"], CIFAR, 10, (2, 9), "name"),
        (["ankle_boot", "t_shirt-top"], ("T-shirt/top", "Trouser", "Ankle boot"), 3, (2, 0), "name"),
        (["größe", "Maß"], ("MASS", "GRÖSSE"), 2, (1, 0), "name"),
        (["crane", "dog"], ("crane", "dog", "crane"), 3, None, "'crane' is no class"),  # which crane?
        ([str(i) for i in sorted(map(str, range(11)))], (), 11, (0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9), "number"),
        (["3", "7"], CIFAR, 10, (3, 7), "number"),
        (["1", "10", "2"], (), 3, (0, 2, 1), "sorted"),
        (["n01440764", "n01443537"], ("tench", "goldfish"), 2, (0, 1), "sorted"),
        (["b", "a"], (), None, (1, 0), "sorted"),
        (["7", "07"], (), 2, (1, 0), "sorted"),
        (["bird", "truk"], CIFAR, 10, None, r"'truk' is no class of the model; did you mean 'truck'\?"),
        (["bird", "zzz"], CIFAR, 10, None, "'zzz' is no class of the model; known are airplane, automobile"),
        (["bird", "Bird"], CIFAR, 10, None, "folders 'bird' and 'Bird' name the same class"),
        (["x", "y"], CIFAR, 10, None, r"expected 10 class folders, or folders named after .*found 2 \(x, y\)"),
        (["x", "y"], (), 3, None, "expected 3 class folders"),
    ],
)
def test_assignment(folders, labels, classes, indices, order):
    if indices is None:
        with pytest.raises(DataError, match=order):
            assign_labels(folders, labels, classes, "d")
        return
    assigned = assign_labels(folders, labels, classes, "d")
    assert (assigned.indices, assigned.order) == (indices, order)
    if labels:
        assert assigned.names == tuple(labels)
    elif order == "sorted":
        assert [assigned.names[index] for index in assigned.indices] == folders


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1, max_size=8, unique=True))
def test_labels_are_in_range_and_distinct(folders):
    assigned = assign_labels(folders, (), None, "d")
    assert sorted(assigned.indices) == list(range(len(folders)))


@given(st.permutations(CIFAR), st.integers(1, 10))
def test_names_map_to_their_own_index_in_any_order(folders, count):
    assigned = assign_labels(folders[:count], CIFAR, 10, "d")
    assert [CIFAR[index] for index in assigned.indices] == folders[:count]
