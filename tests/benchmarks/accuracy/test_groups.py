"""Copies count once, and the images of a group as one: verdicts hold where images are not independent."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_bundle
from PIL import Image

from resnetrt.benchmarks.accuracy.comparison import Outcomes, PairedOutcomes
from resnetrt.benchmarks.accuracy.gate import INCONCLUSIVE, PASS, Budget, Pairs, decide
from resnetrt.benchmarks.accuracy.gate_rows import gate_rows
from resnetrt.benchmarks.accuracy.groups import group_weights, net_winners, read_groups
from resnetrt.benchmarks.accuracy.outcomes import read_results, write_results
from resnetrt.benchmarks.evaluate.report import counted, explain
from resnetrt.calibration.images.data import open_dataset
from resnetrt.cli import run
from resnetrt.errors import DataError, UsageError
from resnetrt.export.engines.compile import compile_variant

ONE = Budget(max_drop_pp=1.0)


def outcomes(predicted):
    flat = np.full(len(predicted), 0.9)
    return Outcomes(np.asarray(predicted, np.int64), np.ones(len(predicted), bool), flat, flat + 1, flat * 0, flat)


def compared(labels, engine, images=None, groups=None):
    n = len(labels)
    images = np.arange(n) if images is None else images
    return PairedOutcomes(
        np.arange(n),
        np.asarray(labels),
        np.asarray(images, np.uint64),
        outcomes(labels),
        {"a": outcomes(engine)},
        0,
        groups,
    )


def test_copies_prove_nothing():
    """50 images sixty times over were 3000, and PASSed."""
    labels = np.arange(50) % 10
    once = compared(labels, labels)
    (row,) = gate_rows(once.at(np.tile(np.arange(50), 60)), ONE)
    (expected,) = gate_rows(once, ONE)
    assert (row.verdict, row.accuracy.n, row.copies) == (INCONCLUSIVE, 50, 2950)
    assert row == dataclasses.replace(expected, copies=2950)
    assert counted(row) == "50 (+2950 copies that don't count)"


def test_an_image_under_two_labels_counts_for_neither():
    labels = np.arange(50) % 10
    images = np.arange(50)
    images[1] = images[0]
    assert gate_rows(compared(labels, labels, images), ONE)[0].accuracy.n == 48
    with pytest.raises(DataError, match="found every image again under another"):
        compared([0, 1], [0, 1], [5, 5]).distinct()


def test_a_group_counts_as_one_image():
    labels = np.tile(np.arange(10), 300)
    groups = np.repeat(np.arange(100), 30)
    (row,) = gate_rows(compared(labels, labels, groups=groups), ONE)
    assert gate_rows(compared(labels, labels), ONE)[0].verdict == PASS
    assert (row.verdict, row.accuracy.n, row.accuracy.groups) == (INCONCLUSIVE, 3000, 100)
    assert "more groups would let it PASS if" in explain(row, ONE)
    assert counted(row) == "3000 in 100 groups"


def test_groups_of_one_change_nothing():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 500)
    engine = np.where(rng.random(500) < 0.03, (labels + 1) % 10, labels)
    (grouped,) = gate_rows(compared(labels, engine, groups=rng.permutation(500)), ONE)
    (plain,) = gate_rows(compared(labels, engine), ONE)
    with_groups, without = grouped.to_json(), plain.to_json()
    assert with_groups.pop("groups") == 500
    without.pop("groups")
    for name, value in without.items():
        assert with_groups[name] == pytest.approx(value), name


def test_weights_and_winners_by_hand():
    groups = np.array([7, 7, 3, 7, 3])
    np.testing.assert_allclose(group_weights(groups, 5), [1 / 3, 1 / 3, 1 / 2, 1 / 3, 1 / 2])
    first = np.array([True, True, False, False, False])
    second = np.array([False, False, True, True, False])
    assert net_winners(first, second, None) == (2, 2)
    assert net_winners(first, second, groups) == (1, 1)
    pairs = Pairs.count(first, second, groups)
    assert (pairs.lost, pairs.gained, pairs.n) == (pytest.approx(2 / 3), pytest.approx(1 / 3 + 1 / 2), 2)


def test_groups_are_stored(tmp_path):
    comparison = compared([0, 1, 2], [0, 1, 2], groups=np.array([4, 4, 5]))
    write_results(tmp_path / "r.safetensors", comparison, {})
    np.testing.assert_array_equal(read_results(tmp_path / "r.safetensors").comparison.groups, [4, 4, 5])
    write_results(tmp_path / "r.safetensors", dataclasses.replace(comparison, groups=None), {})
    assert read_results(tmp_path / "r.safetensors").comparison.groups is None


@pytest.mark.parametrize("together", [1.0, 0.5, 0.1])
def test_an_engine_at_the_budget_passes_groups_no_more_often_than_promised(together):
    """400 groups of 30 frames; a group is lost or gained as a whole, or a share of its frames on their own.

    Counting frames, 25 % pass where groups move as one. Three standard errors of 4000 trials are 1.0 %.
    """
    rng, size, trials = np.random.default_rng(0), 30, 4000
    drop, flips = 0.02, 0.05
    chances = [(flips + drop) / 2 / together, (flips - drop) / 2 / together, 1 - flips / together]
    whole = rng.multinomial(1, chances, (trials, 400))[..., :2]
    frames = rng.binomial(size, together * whole)
    lost, gained = frames.sum(1).T / size
    passes = decide(400 - lost - gained, lost, gained, 400, Budget(max_drop_pp=2.0)) == PASS
    assert passes.mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)
    lost, gained = lost * size, gained * size
    naive = decide(400 * size - lost - gained, lost, gained, 400 * size, Budget(max_drop_pp=2.0)) == PASS
    assert naive.mean() > 0.08


def frames_folder(root, nested):
    """Two classes of two videos with three frames each."""
    for label in ("0", "1"):
        for video in ("a", "b"):
            for number in range(3):
                name = f"{video}/{number}.png" if nested else f"{video}{number}.png"
                path = root / label / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 16), (ord(video), number, int(label))).save(path)
    return str(root)


@pytest.mark.parametrize(
    ("group_by", "nested", "expected"),
    [("folder", True, 4), (r"^\d+/([a-z])", True, 2), (r"^\d+/[a-z]", False, 4), (r"\d\.png", False, 3)],
)
def test_groups_are_read_from_paths(tmp_path, group_by, nested, expected):
    data = open_dataset(frames_folder(tmp_path / "d", nested), tiny_bundle.PREPROCESSING, classes=10, nested=nested)
    groups = read_groups(data, group_by)
    assert (len(groups), len(np.unique(groups))) == (12, expected)


@pytest.mark.parametrize(
    ("group_by", "error", "match"),
    [
        ("folder", DataError, "expected folders inside the class folders, one a group, found image 0/a0.png"),
        ("(", UsageError, "expected folder or a regular expression, found '\\('"),
        ("b(?=1)", DataError, "expected a match in every image's path, found none in 0/a0.png"),
    ],
)
def test_paths_that_fit_no_group_are_refused(tmp_path, group_by, error, match):
    data = open_dataset(frames_folder(tmp_path / "d", False), tiny_bundle.PREPROCESSING, classes=10)
    with pytest.raises(error, match=match):
        read_groups(data, group_by)


def test_images_without_paths_have_no_groups(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 16, 16, 3), np.uint8), y=np.arange(3))
    data = open_dataset(str(tmp_path / "d.npz"), tiny_bundle.PREPROCESSING, classes=10)
    with pytest.raises(DataError, match=r"--group-by: expected an image folder, found .*d\.npz"):
        read_groups(data, "folder")


def test_the_command_says_how_many_groups_and_copies_there_are(tmp_path, capsys):
    bundle = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    compile_variant(bundle, "fp32", "onnxruntime")
    data = frames_folder(tmp_path / "d", True)
    (tmp_path / "d/0/a/9.png").write_bytes((tmp_path / "d/0/a/0.png").read_bytes())
    command = ["evaluate", str(bundle.path), "--data", data, "--max-drop", "5", "--group-by", "folder"]
    assert run(command) in (1, 3)
    assert "12 in 4 groups (+1 copies that don't count)" in capsys.readouterr().out
    run([*command, "--json"])
    record = json.loads(capsys.readouterr().out)
    assert (record["group_by"], record["engines"][0]["groups"], record["engines"][0]["copies"]) == ("folder", 4, 1)
