"""Images of every mode and size reach the model with the right pixels.

Expectations are computed here from the pixels by other means than the library's own conversion.
"""

import numpy as np
import pytest
from PIL import Image

from resnetrt.calibration.images.data import open_dataset
from resnetrt.preprocess import Preprocessing

SIZE = 8
RGB = Preprocessing("RGB", SIZE, (SIZE, SIZE), (0.5,) * 3, (0.5,) * 3)
L = Preprocessing("L", SIZE, (SIZE, SIZE), (0.5,), (0.5,))
COLOUR = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
GREY = np.random.default_rng(4).integers(0, 256, (SIZE, SIZE), np.uint8)
STACKED = np.repeat(GREY[..., None], 3, 2)


def frame_of(tmp_path, image: Image.Image, name: str = "x.png", preprocessing: Preprocessing = RGB, **options):
    folder = tmp_path / "d" / "a"
    folder.mkdir(parents=True)
    image.save(folder / name, **options)
    return next(open_dataset(str(tmp_path / "d"), preprocessing).batches(1)).frames[0]


def test_grey(tmp_path):
    np.testing.assert_array_equal(frame_of(tmp_path, Image.fromarray(GREY)), STACKED)


def test_grey_for_a_grey_model(tmp_path):
    np.testing.assert_array_equal(frame_of(tmp_path, Image.fromarray(GREY), preprocessing=L), GREY[..., None])


def test_colour_for_a_grey_model(tmp_path):
    luma = COLOUR.astype(float) @ (0.299, 0.587, 0.114)
    got = frame_of(tmp_path, Image.fromarray(COLOUR), preprocessing=L)[..., 0]
    assert np.abs(got - luma).max() <= 1


def test_palette(tmp_path):
    image = Image.fromarray(GREY % 4, "P")
    palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)
    image.putpalette(palette.tobytes())
    np.testing.assert_array_equal(frame_of(tmp_path, image), palette[GREY % 4])


def test_palette_with_transparency_keeps_its_colours(tmp_path):
    image = Image.fromarray(GREY % 2, "P")
    palette = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
    image.putpalette(palette.tobytes())
    np.testing.assert_array_equal(frame_of(tmp_path, image, transparency=0), palette[GREY % 2])


def test_black_and_white(tmp_path):
    bits = GREY > 127
    np.testing.assert_array_equal(frame_of(tmp_path, Image.fromarray(bits)), np.repeat(bits[..., None] * 255, 3, 2))


def test_alpha_is_dropped(tmp_path):
    with_alpha = np.dstack([COLOUR, GREY])
    np.testing.assert_array_equal(frame_of(tmp_path, Image.fromarray(with_alpha)), COLOUR)


def test_grey_with_alpha(tmp_path):
    image = Image.fromarray(np.dstack([GREY, GREY[::-1]]), "LA")
    np.testing.assert_array_equal(frame_of(tmp_path, image), STACKED)


def test_cmyk(tmp_path):
    cmyk = np.dstack([COLOUR, GREY])
    expected = (255 - cmyk[..., :3].astype(float)) * (255 - GREY[..., None].astype(float)) / 255
    got = frame_of(tmp_path, Image.fromarray(cmyk, "CMYK"), "x.tif")
    assert np.abs(got - expected).max() <= 1


def test_cmyk_jpeg_is_not_inverted(tmp_path):
    cmyk = np.zeros((SIZE, SIZE, 4), np.uint8)
    cmyk[..., 1:3] = 255  # magenta and yellow: red
    got = frame_of(tmp_path, Image.fromarray(cmyk, "CMYK"), "x.jpg", quality=100)
    assert np.abs(got.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bit_grey_keeps_its_upper_byte(tmp_path, name):
    deep = np.random.default_rng(5).integers(0, 65536, (SIZE, SIZE)).astype(np.uint16)
    expected = np.repeat((deep // 256).astype(np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(frame_of(tmp_path, Image.fromarray(deep), name), expected)


@pytest.mark.parametrize("preprocessing", [RGB, L])
def test_16_bit_values_in_a_32_bit_file_keep_their_upper_byte(tmp_path, preprocessing):
    deep = np.random.default_rng(5).integers(0, 65536, (SIZE, SIZE)).astype(np.int32)
    got = frame_of(tmp_path, Image.fromarray(deep), "x.tif", preprocessing)
    assert (got == (deep // 256)[..., None]).all()


# what undoes each orientation of the EXIF standard (tag 0x0112), by hand
UNDO = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", UNDO)
def test_exif_rotation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = frame_of(tmp_path, Image.fromarray(COLOUR), exif=exif)
    np.testing.assert_array_equal(got, UNDO[orientation](COLOUR))


def test_the_first_frame_of_an_animation(tmp_path):
    first, second = (Image.fromarray(np.full((SIZE, SIZE), value, np.uint8)) for value in (10, 200))
    assert (frame_of(tmp_path, first, "x.gif", save_all=True, append_images=[second]) == 10).all()


def test_an_image_smaller_than_the_crop_is_enlarged(tmp_path):
    got = frame_of(tmp_path, Image.fromarray(np.full((2, 3, 3), 77, np.uint8)))
    assert got.shape == (SIZE, SIZE, 3)
    assert (got == 77).all()


@pytest.mark.parametrize(("shape", "middle"), [((16, 48), np.s_[:, 16:32]), ((48, 16), np.s_[16:32, :])])
def test_a_long_image_gives_its_middle(tmp_path, shape, middle):
    picture = np.zeros((*shape, 3), np.uint8)
    picture[middle] = 250
    got = frame_of(tmp_path, Image.fromarray(picture))
    assert (got[1:-1, 1:-1] == 250).all()  # the border blends with what was cut


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (8, 9), (9, 8), (7, 8), (31, 33)])
def test_any_size_gives_the_models_size(tmp_path, shape):
    picture = np.random.default_rng(6).integers(0, 256, (*shape, 3), np.uint8)
    assert frame_of(tmp_path, Image.fromarray(picture)).shape == (SIZE, SIZE, 3)
