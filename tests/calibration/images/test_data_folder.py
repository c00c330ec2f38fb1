"""Image folders: scanning, streaming in bounded memory, and every way a folder can be wrong."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetrt.calibration.images.data import NO_LABEL, open_dataset, pixel_hash
from resnetrt.calibration.images.stream import ordered_map
from resnetrt.errors import DataError, UsageError
from resnetrt.preprocess import Preprocessing

RGB = Preprocessing("RGB", 8, (8, 8), (0.5,) * 3, (0.5,) * 3)


def pixels(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def make_folder(root: Path, classes: dict[str, int]) -> Path:
    seed = 0
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(pixels(seed)).save(root / name / f"{i:03}.png")
            seed += 1
    return root


def test_streams_every_image_in_order_with_its_label(tmp_path):
    data = open_dataset(str(make_folder(tmp_path / "d", {"cat": 3, "dog": 4})), RGB, ("dog", "cat"))
    batches = list(data.batches(3))
    assert [len(batch.frames) for batch in batches] == [3, 3, 1]
    assert np.concatenate([batch.labels for batch in batches]).tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(7))
    frames = np.concatenate([batch.frames for batch in batches])
    np.testing.assert_array_equal(frames, np.stack([pixels(seed) for seed in range(7)]))
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert (data.class_names, data.label_order, data.labelled) == (("dog", "cat"), "name", True)
    assert data.identity(4).endswith("dog/001.png")
    assert len(data) == 7


def test_system_files_are_ignored(tmp_path):
    root = make_folder(tmp_path / "d", {"a": 1, "b": 1})
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "a" / name).write_bytes(b"x")
        (root / name).write_bytes(b"x")
    (root / ".git").mkdir()
    (root / "__MACOSX").mkdir()
    (root / "README.md").write_text("beside the class folders, harmless")
    assert len(open_dataset(str(root), RGB)) == 2


def test_an_image_without_a_known_suffix_is_known_by_its_content(tmp_path):
    root = make_folder(tmp_path / "d", {"a": 1})
    (root / "a" / "000.png").rename(root / "a" / "000")
    assert len(open_dataset(str(root), RGB)) == 1


def test_unlabelled_images_directly_in_the_folder(tmp_path):
    for seed in range(3):
        Image.fromarray(pixels(seed)).save(tmp_path / f"{seed}.png")
    data = open_dataset(str(tmp_path), RGB, ("a", "b"), labelled=False)
    assert data.labels.tolist() == [NO_LABEL] * 3
    assert not data.labelled
    assert len(next(data.batches(8)).frames) == 3


def test_unlabelled_subfolders_balance_a_subset_but_give_no_labels(tmp_path):
    root = make_folder(tmp_path / "d", {"anything": 6, "else": 2})
    data = open_dataset(str(root), RGB, ("a", "b", "c"), labelled=False).subset(4)
    assert sorted(data.groups.tolist()) == [0, 0, 1, 1]
    assert set(data.labels.tolist()) == {NO_LABEL}


def write(path: Path, blob: bytes) -> None:
    path.write_bytes(blob)


BROKEN_FOLDERS = {
    "text in a class folder": (lambda d: write(d / "a" / "notes.txt", b"hello"), r"notes\.txt: expected an image"),
    "dangling link": (lambda d: (d / "a" / "x.png").symlink_to(d / "gone"), r"x\.png: .*no readable file"),
    "empty class folder": (lambda d: (d / "c").mkdir(), "class folder c is empty"),
    "loose image": (lambda d: write(d / "loose.jpg", b""), "image loose.jpg lies beside the class folders"),
    "nested folder": (lambda d: (d / "a" / "more").mkdir(), "class folder a holds a folder, more"),
}


@pytest.mark.parametrize("fault", BROKEN_FOLDERS)
def test_a_broken_folder_is_one_clear_line(tmp_path, fault):
    root = make_folder(tmp_path / "d", {"a": 1, "b": 1})
    plant, message = BROKEN_FOLDERS[fault]
    plant(root)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(str(root), RGB)
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)


def test_a_folder_of_splits_points_to_the_split(tmp_path):
    make_folder(tmp_path / "d" / "train", {"a": 1})
    with pytest.raises(
        DataError, match=r"class folder train holds a folder, a; expected images: point to .*train instead"
    ):
        open_dataset(str(tmp_path / "d"), RGB)


@pytest.mark.parametrize("labelled", [True, False])
def test_an_empty_folder(tmp_path, labelled):
    with pytest.raises(DataError, match=r"expected (one subfolder per class|images), found"):
        open_dataset(str(tmp_path), RGB, labelled=labelled)


def test_images_directly_in_a_labelled_folder(tmp_path):
    Image.fromarray(pixels(0)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="one subfolder per class, found images directly in it"):
        open_dataset(str(tmp_path), RGB)


def test_unlabelled_images_and_subfolders_together(tmp_path):
    make_folder(tmp_path, {"a": 1})
    Image.fromarray(pixels(0)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"found both \(x\.png and a/\)"):
        open_dataset(str(tmp_path), RGB, labelled=False)


@pytest.mark.parametrize(
    ("suffix", "spoil"),
    [
        (".jpg", lambda blob: blob[: len(blob) // 2]),
        (".png", lambda blob: blob[:40]),
        (".png", lambda _: b"not an image"),
    ],
)
def test_a_damaged_image_is_named_when_it_is_decoded(tmp_path, suffix, spoil):
    root = make_folder(tmp_path / "d", {"a": 4})
    path = root / "a" / f"zz{suffix}"
    Image.fromarray(pixels(0, 64, 64)).save(path)
    path.write_bytes(spoil(path.read_bytes()))
    data = open_dataset(str(root), RGB)
    with pytest.raises(DataError, match=rf"zz{suffix}: expected a readable image"):
        list(data.batches(2))


def test_a_missing_path_suggests_the_nearest(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"found nothing there; did you mean .*images\?"):
        open_dataset(str(tmp_path / "image"), RGB)


def test_a_file_that_is_no_data(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(DataError, match="found another kind of file"):
        open_dataset(str(tmp_path / "x.zip"), RGB)


@pytest.mark.parametrize("spec", ["", "\0"])
def test_no_name_at_all_is_not_the_working_directory(spec):
    with pytest.raises(DataError, match=r"expected an image folder, an \.npz file or an embedded set"):
        open_dataset(spec, RGB)


def test_batch_size_must_be_positive(tmp_path):
    data = open_dataset(str(make_folder(tmp_path / "d", {"a": 1})), RGB)
    with pytest.raises(UsageError, match="batch size: expected a positive number, found 0"):
        next(data.batches(0))


def test_look_ahead_is_bounded_and_order_kept():
    started, lock = [], threading.Lock()

    def work(item: int) -> int:
        with lock:
            started.append(item)
        time.sleep(0.001 * (item % 3))
        return item * item

    results = []
    for result in ordered_map(work, range(200), look_ahead=5, workers=4):
        results.append(result)
        assert len(started) <= len(results) + 5
    assert results == [item * item for item in range(200)]


def test_leaving_early_stops_the_decoding():
    started = []
    results = ordered_map(started.append, range(10_000), look_ahead=4, workers=2)
    next(results)
    results.close()
    assert len(started) <= 8
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_memory_stays_flat_while_streaming(tmp_path):
    """The frames alive at once are a few batches, however many images there are."""
    root = make_folder(tmp_path / "d", {"a": 120})
    data = open_dataset(str(root), RGB)
    live, most, lock = 0, 0, threading.Lock()

    class Counting(Preprocessing):
        def frame_from_file(self, source):
            nonlocal live, most
            with lock:
                live += 1
                most = max(most, live)
            return super().frame_from_file(source)

    data.source._preprocessing = Counting(**RGB.__dict__)
    for batch in data.batches(4):
        with lock:
            live -= len(batch.frames)
    assert most <= 4 * 4


def test_pixel_hash_is_of_pixels_and_shape(tmp_path):
    frame = pixels(1)
    Image.fromarray(frame).save(tmp_path / "a.png")
    Image.fromarray(frame).save(tmp_path / "a.bmp")
    frames = [RGB.frame_from_file(tmp_path / name) for name in ("a.png", "a.bmp")]
    assert pixel_hash(frames[0]) == pixel_hash(frames[1]) == pixel_hash(frame)
    assert pixel_hash(frame.reshape(4, 16, 3)) != pixel_hash(frame)
    assert pixel_hash(np.ascontiguousarray(frame[:, ::-1])) != pixel_hash(frame)
    assert pixel_hash(frame[:, ::-1]) == pixel_hash(np.ascontiguousarray(frame[:, ::-1]))
