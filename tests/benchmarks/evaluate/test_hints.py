"""Hints override verdicts: none is given for data that is right, or for a chance improvement."""

import numpy as np
import pytest

from resnetrt.benchmarks.evaluate.hints import is_recipe, leaves_room, reference_preprocessing
from resnetrt.benchmarks.evaluate.label_map import label_map
from resnetrt.benchmarks.studies import hints as hint_study
from resnetrt.preprocess import Preprocessing

RECIPE = Preprocessing("RGB", 2, (2, 2), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NAMES = [f"c{i}" for i in range(10)]


def found(expected, answers):
    return label_map(np.asarray(expected), np.asarray(answers), 10, NAMES, "labels and reference")


def test_a_reference_that_is_always_right_renames_nothing():
    labels = np.repeat(np.arange(10), 40)
    assert found(labels, labels) is None


@pytest.mark.parametrize(("images", "named"), [(8, False), (80, True)])
def test_a_few_images_are_no_renaming(images, named):
    labels = np.concatenate([np.repeat(np.arange(8), 80), np.repeat([8, 9], images)])
    swapped = np.where(labels >= 8, 17 - labels, labels)
    hint = found(labels, swapped)
    assert (hint is not None) == named
    assert hint is None or "2 classes are renamed (c8 means c9, c9 means c8); check" in hint


def pairs(top1, classes, n, seed=0):
    """Labels of equal classes, and answers of a network whose wrong ones may be any other class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    wrong = (labels + rng.integers(1, classes, n)) % classes
    return labels, np.where(rng.random(n) < top1, labels, wrong)


@pytest.mark.parametrize(
    ("top1", "classes", "n"), [(0.7, 1000, 200), (0.72, 10, 200), (0.2, 1000, 200), (0.2, 100, 500)]
)
def test_reversed_labels_are_found_whatever_the_network_reaches(top1, classes, n):
    labels, answers = pairs(top1, classes, n)
    hint = label_map(classes - 1 - labels, answers, classes, (), "labels and reference")
    assert hint is not None
    assert "the order is reversed" in hint


@pytest.mark.parametrize(("top1", "classes", "n"), [(0.7, 1000, 1000), (0.4, 10, 1000), (0.2, 100, 5000)])
def test_any_renaming_is_learnt_where_classes_have_several_images(top1, classes, n):
    labels, answers = pairs(top1, classes, n)
    names = np.random.default_rng(1).permutation(classes)
    assert label_map(names[labels], answers, classes, (), "labels and reference") is not None


def test_names_in_another_order_are_found():
    names = ["ship", "cat", "dog", "frog", "bird", "horse", "truck", "deer", "car", "plane"]
    labels, answers = pairs(0.6, 10, 100)
    given = np.argsort(np.argsort(names))[labels]  # numbers of the names in alphabetical order
    hint = label_map(given, answers, 10, names, "labels and reference")
    assert hint is not None
    assert "names were sorted" in hint


@pytest.mark.parametrize("of_others", [0.0, 0.3])
def test_an_answer_for_one_large_class_is_no_renaming(of_others):
    """Nine in ten images are of class 0, and the network knows nothing: it says 1 mostly."""
    rng = np.random.default_rng(0)
    labels = (rng.random(1000) < 0.1).astype(int)
    answers = (rng.random(1000) >= of_others).astype(int)
    assert label_map(labels, answers, 2, (), "labels and reference") is None


@pytest.mark.parametrize("kind", hint_study.NETWORKS)
@pytest.mark.parametrize("setting", [(0.2, 10, 5000), (0.2, 1000, 1000), (0.7, 10, 200), (0.95, 2, 500)])
def test_sound_networks_are_not_blamed(kind, setting):
    top1, classes, count = setting
    rng = np.random.default_rng(0)
    networks = (hint_study.draw_network(kind, top1, classes, rng) for _ in range(12))
    assert not any(hint_study.is_blamed(network, count, rng) for network in networks)


@pytest.mark.parametrize("fault", ["reversed", "one too high", "permuted", "recipe"])
def test_planted_faults_are_found(fault):
    rng = np.random.default_rng(0)
    networks = (hint_study.draw_network("uneven", 0.7, 10, rng) for _ in range(8))
    assert all(hint_study.finds(fault, network, 1000, rng)[0] for network in networks)


@pytest.mark.parametrize(("wrong", "mirrored", "named"), [(0.0, 0.3, True), (0.35, 0.42, False), (0.2, 0.9, True)])
def test_a_recipe_is_the_cause_where_it_is_far_better_of_what_the_network_can_reach(wrong, mirrored, named):
    labels = np.random.default_rng(0).integers(0, 10, 480)
    rank = np.random.default_rng(1).random(480)
    frames = np.zeros((480, 2, 2, 3), np.uint8)
    frames[:, :, 1] = 200

    def reference(images):
        rows = np.arange(96) if len(images) == 96 else np.arange(96, 480)
        flipped = images[:, 0, 0, 0] > images[:, 0, 0, 1]
        right = rank[rows] < np.where(flipped, mirrored, wrong)
        return np.eye(10, dtype=np.float32)[np.where(right, labels[rows], (labels[rows] + 1) % 10)]

    hint = reference_preprocessing(reference, frames, labels, RECIPE)
    assert (hint is not None) == named
    assert hint is None or "images are mirrored" in hint


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_where_no_room_is_left_no_recipe_is_the_cause(classes):
    rng = np.random.default_rng(0)
    rooms = []
    for top1 in np.linspace(0, 1, 60):
        labels = rng.integers(0, classes, 300)
        right = rng.random(300) < top1
        rooms.append(leaves_room(right, labels))
        for other in (np.ones(300, bool), rng.random(300) < 0.95, right | (rng.random(300) < 0.5)):
            assert rooms[-1] or not is_recipe(right, other, labels, 1)
    assert rooms[0]
    assert not rooms[-1]


def test_images_of_one_class_accuse_nothing():
    """Of one class a recipe that ruins everything may be always right."""
    labels = np.full(200, 3)
    frames = np.random.default_rng(0).integers(0, 256, (200, 2, 2, 3), np.uint8)

    def reference(images):
        answers = np.where(images.mean((1, 2, 3)) > 0.2, 3, np.arange(len(images)) % 5)
        return np.eye(10, dtype=np.float32)[answers]

    assert reference_preprocessing(reference, frames, labels, RECIPE) is None
    assert label_map(labels, np.full(200, 5), 10, NAMES, "labels and reference") is None
