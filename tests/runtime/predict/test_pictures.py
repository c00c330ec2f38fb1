"""Which files are read, and that every kind of picture becomes the same frame."""

import os
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from PIL import Image

from resnetrt.errors import DataError
from resnetrt.runtime.predict.pictures import frame_of, list_pictures, one_or_more

LARGE = Image.fromarray(tiny_bundle.frames(1)[0]).resize((50, 40))


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_folder_gives_the_images_in_it_and_below_it(tmp_path: Path):
    wanted = [tmp_path / name for name in ("b.JPG", "a/1.png", "a/deep/2.webp")]
    touch(*wanted, tmp_path / "notes.txt", tmp_path / ".hidden.png", tmp_path / "@eaDir" / "3.png")
    assert list_pictures([tmp_path]) == wanted


def test_a_named_file_is_taken_whatever_its_name_is_and_only_once(tmp_path: Path):
    touch(tmp_path / "odd.dat", tmp_path / "x.png")
    assert list_pictures([tmp_path / "odd.dat", tmp_path / "x.png", tmp_path]) == [
        tmp_path / "odd.dat",
        tmp_path / "x.png",
    ]


def test_a_link_to_a_folder_is_followed_and_a_circle_ends(tmp_path: Path):
    touch(tmp_path / "elsewhere" / "1.png", tmp_path / "root" / "2.png")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "circle").symlink_to(tmp_path / "root")
    assert list_pictures([tmp_path / "root"]) == [tmp_path / "root" / "2.png", tmp_path / "root" / "link" / "1.png"]


def test_a_pipe_among_the_images_is_not_waited_for(tmp_path: Path):
    touch(tmp_path / "1.png")
    os.mkfifo(tmp_path / "2.png")
    assert list_pictures([tmp_path]) == [tmp_path / "1.png"]
    with pytest.raises(DataError, match=r"2.png: expected an image file or a folder, found no file"):
        list_pictures([tmp_path / "2.png"])


def test_what_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"gone.png: expected an image file or a folder, found nothing"):
        list_pictures([tmp_path / "gone.png"])
    with pytest.raises(DataError, match="expected images, found none"):
        list_pictures([tmp_path])


def test_a_file_its_bytes_and_its_pixels_give_the_same_frame(tmp_path: Path):
    LARGE.save(tmp_path / "x.png")
    given = [tmp_path / "x.png", str(tmp_path / "x.png"), (tmp_path / "x.png").read_bytes(), np.array(LARGE)]
    frames = [frame_of(picture, tiny_bundle.PREPROCESSING) for picture in given]
    assert frames[0].shape == (16, 16, 3)
    for frame in frames[1:]:
        np.testing.assert_array_equal(frame, frames[0])


def test_pixels_of_the_models_size_are_kept_and_greys_get_colours():
    frame = tiny_bundle.frames(1)[0]
    assert frame_of(frame, tiny_bundle.PREPROCESSING) is frame
    for grey in (frame[..., :1], frame[..., 0]):
        np.testing.assert_array_equal(frame_of(grey, tiny_bundle.PREPROCESSING), frame[..., :1].repeat(3, 2))


@pytest.mark.parametrize(
    "pixels", [np.zeros((8, 8, 2), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8), [[1, 2]]]
)
def test_an_array_that_is_no_picture_is_refused(pixels):
    with pytest.raises(DataError, match=r"pixels: expected uint8 \(H, W\)"):
        tiny_bundle.PREPROCESSING.frame_from_array(pixels)


def test_one_picture_is_a_sequence_of_one():
    frames = tiny_bundle.frames(3)
    assert len(one_or_more(frames)) == 3
    assert len(one_or_more(frames[0])) == 1
    assert one_or_more("a.png") == ["a.png"]
    assert one_or_more(b"bytes") == [b"bytes"]
    assert one_or_more(iter(["a", "b"])) == ["a", "b"]
