"""Archives and embedded sets, subsets, and every way an archive can be wrong."""

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnetrt.calibration.images.data import Dataset, embedded_names, open_dataset
from resnetrt.calibration.images.npz import ArraySource
from resnetrt.errors import DataError, UsageError
from resnetrt.preprocess import Preprocessing

RGB = Preprocessing("RGB", 8, (8, 8), (0.5,) * 3, (0.5,) * 3)
GREY = Preprocessing("L", 28, (28, 28), (0.286,), (0.353,))
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (6, 8, 8, 3), np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])


def save(path: Path, **arrays: np.ndarray) -> str:
    np.savez_compressed(path, **arrays)
    return str(path)


def all_frames(data: Dataset, size: int = 4) -> np.ndarray:
    return np.concatenate([batch.frames for batch in data.batches(size)])


def test_frames_of_the_right_size_are_passed_as_they_are(tmp_path):
    data = open_dataset(save(tmp_path / "d.npz", x=X, y=Y), RGB, ("a", "b", "c"))
    batches = list(data.batches(4))
    np.testing.assert_array_equal(np.concatenate([batch.frames for batch in batches]), X)
    assert data.labels.tolist() == Y.tolist()
    assert batches[0].frames.base is not None  # a view: nothing was copied
    assert not batches[0].frames.flags.writeable
    assert data.identity(3).endswith("d.npz[3]")


@pytest.mark.parametrize("indices", [[4, 1, 1, 5, 0], [0, 2, 1, 3], [5, 4, 3], [2, 3, 4]])
def test_a_gathered_batch_keeps_order(indices):
    source = ArraySource(X.copy(), RGB, "x")
    for size in (2, 4):
        np.testing.assert_array_equal(np.concatenate(list(source.batches(np.array(indices), size))), X[indices])


@pytest.mark.parametrize("shape", [(3, 11, 9, 3), (3, 5, 6, 1), (3, 5, 6), (3, 9, 9, 4)])
def test_other_sizes_and_channels_go_through_the_image_path(tmp_path, shape):
    x = RNG.integers(0, 256, shape, np.uint8)
    data = open_dataset(save(tmp_path / "d.npz", x=x, y=Y[:3]), RGB)
    expected = [RGB.frame(Image.fromarray(image.squeeze() if image.shape[-1] == 1 else image)) for image in x]
    np.testing.assert_array_equal(all_frames(data, 2), np.stack(expected))


def test_colour_archive_for_a_grey_model(tmp_path):
    x = np.full((2, 28, 28, 3), (255, 0, 0), np.uint8)
    data = open_dataset(save(tmp_path / "d.npz", x=x, y=Y[:2]), GREY)
    assert set(np.unique(all_frames(data))) == {76}  # ITU-R 601: 0.299 * 255


@pytest.mark.parametrize("name", ["fashion_calib", "fashion_test"])
def test_embedded_sets(name):
    data = open_dataset(name, GREY, classes=10)
    assert name in embedded_names()
    counts = np.bincount(data.labels, minlength=10)
    assert counts.max() - counts.min() <= 1
    assert next(data.batches(5)).frames.shape == (5, 28, 28, 1)
    assert data.identity(7) == f"{name}[7]"


def test_embedded_sets_do_not_overlap():
    calibration, test = (all_frames(open_dataset(name, GREY), 500) for name in ("fashion_calib", "fashion_test"))
    assert not {frame.tobytes() for frame in calibration} & {frame.tobytes() for frame in test}


def test_an_unknown_embedded_name_is_suggested():
    with pytest.raises(DataError, match=r"data fashion_tets: .*did you mean fashion_test"):
        open_dataset("fashion_tets", GREY)


BAD_ARRAYS = {
    "no y": ({"x": X}, "expected arrays x and y, found x; save y too"),
    "no x": ({"images": X, "y": Y}, "found images, y; save x too"),
    "float pixels": ({"x": X / 255, "y": Y}, "x: expected uint8 pixels 0 to 255, found float64"),
    "rank": ({"x": X[0, 0], "y": Y}, r"x: expected shape \(N, H, W, C\) or \(N, H, W\), found \(8, 3\)"),
    "channels first": ({"x": X.transpose(0, 3, 1, 2), "y": Y}, r"channels come last: x.transpose\(0, 2, 3, 1\)"),
    "two channels": ({"x": X[..., :2], "y": Y}, r"expected 1, 3 or 4 channels in the last axis"),
    "lengths": ({"x": X, "y": Y[:4]}, "y: expected 6 labels, one for each image in x, found 4"),
    "no images": ({"x": X[:0], "y": Y[:0]}, "x: expected images, found zero"),
    "no pixels": ({"x": X[:, :0], "y": Y}, r"x: expected pixels, found shape \(6, 0, 8, 3\)"),
    "float labels": ({"x": X, "y": Y.astype(float)}, r"y: expected integers of shape \(N,\), found float64"),
    "one-hot": ({"x": X, "y": np.eye(6, dtype=int)}, r"y: expected integers of shape \(N,\), found int64 \(6, 6\)"),
    "negative": ({"x": X, "y": Y - 1}, "y: expected labels from 0, found -1 at row 0"),
    "huge": ({"x": X, "y": np.array([0, 1, 2, 2**64 - 1, 1, 2], np.uint64)}, "found 18446744073709551615 at row 3"),
    "out of range": ({"x": X, "y": Y + 8}, "labels 0 to 9 for the model's 10 classes, found 10 at row 2"),
    "objects": ({"x": np.array([X, None], object), "y": Y}, "found Python objects or no archive at all"),
}


@pytest.mark.parametrize("fault", BAD_ARRAYS)
def test_a_malformed_archive_is_one_clear_line(tmp_path, fault):
    arrays, message = BAD_ARRAYS[fault]
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(save(tmp_path / "d.npz", **arrays), RGB, classes=10)
    assert "\n" not in str(caught.value)
    assert "d.npz" in str(caught.value)


def npz_bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=X, y=Y)
    return buffer.getvalue()


def huge_array() -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**15, 8, 8, 3)})
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.npy", header.getvalue())
        file.writestr("y.npy", b"")
    return archive.getvalue()


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "expected a readable .npz"),
        (b"garbage", "Python objects or no archive at all"),
        (npz_bytes()[:200], "expected a readable .npz|no archive"),
        (npz_bytes()[:30] + b"\xff" * 20 + npz_bytes()[50:], "expected a readable .npz"),
        (huge_array(), "do not fit into memory"),
    ],
)
def test_an_unreadable_archive(tmp_path, blob, message):
    (tmp_path / "d.npz").write_bytes(blob)
    with pytest.raises(DataError, match=message):
        open_dataset(str(tmp_path / "d.npz"), RGB)


def test_a_single_array_under_the_wrong_suffix(tmp_path):
    with (tmp_path / "d.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(DataError, match=r"found a single array; use np\.savez"):
        open_dataset(str(tmp_path / "d.npz"), RGB)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_anywhere_is_a_data_error_or_harmless(tmp_path_factory, data):
    blob = bytearray(npz_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "d.npz"
    path.write_bytes(bytes(blob[: data.draw(st.integers(1, len(blob)))]))
    with contextlib.suppress(DataError):
        open_dataset(str(path), RGB, classes=3)


def test_unlabelled_archive(tmp_path):
    data = open_dataset(save(tmp_path / "d.npz", x=X), RGB, ("a",), labelled=False)
    assert not data.labelled
    labels_unused = open_dataset(save(tmp_path / "e.npz", x=X, y=Y), RGB, ("a",), labelled=False)
    assert not labels_unused.labelled
    assert sorted(labels_unused.subset(3).groups.tolist()) == [0, 1, 2]


class NoPixels:
    def identity(self, index: int) -> str:
        return str(index)

    def batches(self, indices, size):
        yield from ()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 5), st.data())
def test_a_subset_is_balanced_repeatable_and_nested(groups, seed, data):
    y = np.array(groups)
    whole = Dataset("d", y, (), np.arange(len(y)), y, NoPixels())
    count = data.draw(st.integers(1, len(y)))
    chosen = whole.subset(count, seed)
    assert len(set(chosen.indices.tolist())) == len(chosen) == count
    np.testing.assert_array_equal(chosen.labels, y[chosen.indices])
    np.testing.assert_array_equal(chosen.indices, whole.subset(len(y), seed).indices[:count])
    took, available = np.bincount(chosen.labels, minlength=5), np.bincount(y, minlength=5)
    short = took < available  # classes that could give more
    assert not short.any() or took.max() - took[short].min() <= 1


def test_seeds_differ_and_ids_survive_selection():
    data = open_dataset("fashion_calib", GREY)
    assert data.subset(20, 1).indices.tolist() != data.subset(20, 2).indices.tolist()
    resumed = data.subset(50).select(range(30, 50))
    batch = next(resumed.batches(20))
    np.testing.assert_array_equal(batch.indices, data.subset(50).indices[30:])
    np.testing.assert_array_equal(batch.frames, all_frames(data, 256)[batch.indices])


@pytest.mark.parametrize("count", [0, -1, 257])
def test_a_subset_larger_than_the_data(count):
    with pytest.raises(UsageError, match=f"expected 1 to 256 images to choose, found {count}"):
        open_dataset("fashion_calib", GREY).subset(count)
