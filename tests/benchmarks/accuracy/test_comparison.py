"""Accuracy rows against naive counting, real parts end to end, and every planted fault."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resnetrt.benchmarks.accuracy.comparison import compare_accuracy, judge
from resnetrt.benchmarks.stats.noninferiority import drop_interval
from resnetrt.calibration.images.data import open_dataset, pixel_hash
from resnetrt.errors import CheckFailed, DataError, UsageError
from resnetrt.parity import sqnr_db
from resnetrt.preprocess import Preprocessing

N, CLASSES = 23, 7
PREPROCESSING = Preprocessing("RGB", 4, (4, 4), (0.5,) * 3, (0.25,) * 3)
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (N, 4, 4, 3), np.uint8)
Y = RNG.integers(0, CLASSES, N)
WEIGHTS = RNG.normal(size=(48, CLASSES)).astype(np.float32)
NAMES = {"engine", "n", "fp32_top1", "top1", "fp32_top5", "top5", "drop_pp", "drop_ci_pp", "flips_percent", "sqnr_db"}


def linear(weights):
    return lambda images: images.reshape(len(images), -1) @ weights


def noisy(scale, seed=1):
    return linear(WEIGHTS + np.random.default_rng(seed).normal(size=WEIGHTS.shape).astype(np.float32) * scale)


@pytest.fixture
def data(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    return open_dataset(str(tmp_path / "d.npz"), PREPROCESSING, classes=CLASSES)


def compare(data, candidates, **options):
    return compare_accuracy(linear(WEIGHTS), candidates, data, PREPROCESSING, batch_size=5, **options)


def test_rows_equal_naive_counting(data):
    row = compare(data, {"a": noisy(0.5)}).rows()[0]
    images = PREPROCESSING.normalize(X)
    ref, out = linear(WEIGHTS)(images), noisy(0.5)(images)
    right, reference_right = out.argmax(1) == Y, ref.argmax(1) == Y
    in_five = [Y[i] in np.argsort(-out[i])[:5] for i in range(N)]
    assert row["top1"] == pytest.approx(100 * right.mean())
    assert row["fp32_top1"] == pytest.approx(100 * reference_right.mean())
    assert row["top5"] == pytest.approx(100 * np.mean(in_five))
    assert row["drop_pp"] == pytest.approx(row["fp32_top1"] - row["top1"])
    assert row["flips_percent"] == pytest.approx(100 * (ref.argmax(1) != out.argmax(1)).mean())
    assert row["flips_percent"] > 0
    assert row["sqnr_db"] == pytest.approx(sqnr_db(ref, out), abs=1e-4)
    expected = drop_interval((reference_right & ~right).sum(), (right & ~reference_right).sum(), N)
    assert row["drop_ci_pp"] == pytest.approx([100 * limit for limit in expected])
    assert row.keys() == NAMES | {"verdict", "groups", "calibration_overlap"}
    assert (row["engine"], row["n"], row["verdict"], row["groups"], row["calibration_overlap"]) == (
        "a",
        N,
        None,
        None,
        None,
    )


def test_the_reference_against_itself(data):
    row = compare(data, {"same": linear(WEIGHTS)}).rows()[0]
    assert (row["drop_pp"], row["flips_percent"], row["sqnr_db"]) == (0.0, 0.0, 200.0)
    assert row["drop_ci_pp"][0] < 0 < row["drop_ci_pp"][1]


def test_all_engines_see_the_same_images_once(data):
    seen = {"reference": [], "a": [], "b": []}

    def spy(name):
        return lambda images: seen[name].append(images.copy()) or linear(WEIGHTS)(images)

    comparison = compare_accuracy(spy("reference"), {"a": spy("a"), "b": spy("b")}, data, PREPROCESSING, batch_size=4)
    whole = {name: np.concatenate(parts) for name, parts in seen.items()}
    for images in whole.values():
        np.testing.assert_array_equal(images, PREPROCESSING.normalize(X))
    np.testing.assert_array_equal(comparison.labels, Y)
    np.testing.assert_array_equal(comparison.indices, np.arange(N))
    assert list(comparison.candidates) == ["a", "b"]


def test_a_swapped_label_map_shows_as_a_drop(tmp_path):
    answers = linear(WEIGHTS)(PREPROCESSING.normalize(X)).argmax(1)
    np.savez(tmp_path / "d.npz", x=X, y=answers)
    data = open_dataset(str(tmp_path / "d.npz"), PREPROCESSING, classes=CLASSES)
    row = compare(data, {"swapped": linear(np.roll(WEIGHTS, 1, axis=1))}).rows()[0]
    assert (row["fp32_top1"], row["top1"], row["drop_pp"], row["flips_percent"]) == (100.0, 0.0, 100.0, 100.0)
    assert row["drop_ci_pp"][0] > 70


logits = hnp.arrays(np.float32, (6, 8), elements=st.integers(-3, 3).map(float))


@given(logits, logits, hnp.arrays(np.int64, 6, elements=st.integers(0, 7)))
def test_outcomes_with_ties_agree_with_a_stable_sort(out, ref, labels):
    outcomes = judge(out, ref, labels)
    for i, row in enumerate(out):
        ranked = sorted(range(8), key=lambda c, row=row: (-row[c], c))
        assert outcomes.predicted[i] == ranked[0]
        assert outcomes.top5[i] == (labels[i] in ranked[:5])
        assert outcomes.margin[i] == row[ranked[0]] - row[ranked[1]]
    np.testing.assert_allclose(outcomes.noise, np.square(out - ref).sum(1))


def test_few_classes():
    outcomes = judge(np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float32), np.zeros(2, np.int64))
    assert outcomes.top5.all()
    assert (outcomes.margin == 0).all()


def test_a_constant_output_is_right_by_chance_only(data):
    row = compare(data, {"dead": lambda images: np.zeros((len(images), CLASSES))}).rows()[0]
    assert row["top1"] == pytest.approx(100 * (Y == 0).mean())


def test_calibration_images_are_refused_and_named(data):
    used = {pixel_hash(X[7]), pixel_hash(X[8])}
    with pytest.raises(
        DataError, match=r"calibration has not used, found 2 of 5, first .*d\.npz\[7\]; evaluate on other"
    ):
        compare(data, {"a": linear(WEIGHTS)}, calibration_hashes=used)
    allowed = compare(data, {"a": linear(WEIGHTS)}, calibration_hashes=used, allow_overlap=True)
    assert allowed.rows()[0]["calibration_overlap"] == 2
    assert compare(data, {"a": linear(WEIGHTS)}, calibration_hashes=["0" * 64]).rows()[0]["calibration_overlap"] == 0


def spoiled(value):
    def infer(images):
        out = linear(WEIGHTS)(images)
        out[-1, 2] = value
        return out

    return infer


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_are_refused_and_the_image_named(data, value):
    with pytest.raises(
        CheckFailed, match=r"engine a: expected finite outputs, found NaN or infinity for .*d\.npz\[4\]"
    ):
        compare(data, {"a": spoiled(value)})
    with pytest.raises(CheckFailed, match="reference: expected finite outputs"):
        compare_accuracy(spoiled(value), {}, data, PREPROCESSING)


@pytest.mark.parametrize(
    "infer",
    [lambda images: linear(WEIGHTS)(images)[:, :5], lambda images: linear(WEIGHTS)(images)[:3], lambda images: images],
)
def test_outputs_of_another_shape_are_refused(data, infer):
    with pytest.raises(CheckFailed, match=r"engine a: expected outputs of shape \(5, 7\), found"):
        compare(data, {"a": infer})


def test_labels_beyond_the_outputs_are_refused(data):
    with pytest.raises(DataError, match=r"expected labels 0 to 1, found \d for .*d\.npz\[\d+\]"):
        compare_accuracy(linear(WEIGHTS[:, :2]), {}, data, PREPROCESSING)


def test_data_without_labels_is_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x=X)
    unlabelled = open_dataset(str(tmp_path / "d.npz"), PREPROCESSING, labelled=False)
    with pytest.raises(UsageError, match="expected labels to compare with"):
        compare(unlabelled, {})


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 40))
def test_the_batch_size_changes_nothing(batch_size):
    source = open_dataset("fashion_test", Preprocessing("L", 28, (28, 28), (0.3,), (0.3,))).subset(37)
    weights = np.random.default_rng(0).normal(size=(784, 10)).astype(np.float32)
    other = weights + np.float32(0.1) * np.random.default_rng(1).normal(size=weights.shape).astype(np.float32)
    preprocessing = Preprocessing("L", 28, (28, 28), (0.3,), (0.3,))
    rows = compare_accuracy(linear(weights), {"a": linear(other)}, source, preprocessing, batch_size=batch_size).rows()
    expected = compare_accuracy(linear(weights), {"a": linear(other)}, source, preprocessing, batch_size=37).rows()
    assert rows[0] == expected[0] | {"sqnr_db": pytest.approx(expected[0]["sqnr_db"])}


def test_the_embedded_model_on_embedded_images():
    torch = pytest.importorskip("torch")
    from resnetrt.models.resolve import resolve

    model = resolve("fashion_resnet20")

    def eager(images):
        with torch.inference_mode():
            return model.module(torch.from_numpy(images)).numpy()

    data = open_dataset("fashion_test", model.preprocessing, model.labels).subset(400)
    coarse = {"8 bit": lambda images: np.round(eager(images) * 8) / 8}
    row = compare_accuracy(eager, coarse, data, model.preprocessing).rows()[0]
    assert row["fp32_top1"] > 89  # 92.5 % on all images; five standard errors below it on 400
    assert abs(row["drop_pp"]) < 2
    assert row["sqnr_db"] > 25
