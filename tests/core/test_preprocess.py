"""The recipe against an independent one in torch operators, over many sizes; and every kind of image file."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnetrt.errors import DataError, UsageError
from resnetrt.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, convert_mode, decode

IMAGENET = Preprocessing("RGB", 256, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
MODES += ["I", "F", "I;16", "I;16B"]
SMALL = Preprocessing("RGB", 40, (32, 36), IMAGENET_MEAN, IMAGENET_STD)
GREY = Preprocessing("L", 28, (28, 28), (0.2860,), (0.3530,))
RNG = np.random.default_rng(1)

sides = st.integers(1, 150)


def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    return Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8), mode=None)


def resize(image: Image.Image, size: int) -> Image.Image:
    """torchvision.transforms.functional.resize of a PIL image: an int is the shorter side, the longer is truncated."""
    width, height = image.size
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = size, int(size * long / short)
    wanted = (new_short, new_long) if width <= height else (new_long, new_short)
    return image if wanted == image.size else image.resize(wanted, Image.Resampling.BILINEAR)


def torchvision_recipe(image: Image.Image, recipe: Preprocessing) -> torch.Tensor:
    """Resize, ToTensor, CenterCrop, Normalize of torchvision, in its own order of float32 operations."""
    pixels = np.array(resize(image.convert(recipe.mode), recipe.resize), copy=True)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    (_, height, width), (crop_height, crop_width) = tensor.shape, recipe.size
    top, left = round((height - crop_height) / 2.0), round((width - crop_width) / 2.0)
    tensor = tensor[:, top : top + crop_height, left : left + crop_width].clone()
    mean, std = (torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (recipe.mean, recipe.std))
    return tensor.sub_(mean).div_(std)


def preprocess(image: Image.Image, recipe: Preprocessing) -> np.ndarray:
    return recipe.normalize(recipe.frame(image)[None])[0]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@given(sides, sides, st.integers(1, 64), st.data())
def test_bit_equal_to_torchvision_at_any_size(width: int, height: int, short: int, data: st.DataObject):
    crop = data.draw(st.tuples(st.integers(1, short), st.integers(1, short)))
    recipe = Preprocessing("RGB", short, crop, IMAGENET_MEAN, IMAGENET_STD)
    image = photo(width, height)
    np.testing.assert_array_equal(preprocess(image, recipe), torchvision_recipe(image, recipe).numpy(), strict=True)


@pytest.mark.parametrize(
    ("width", "height"),
    [(500, 375), (375, 500), (256, 256), (224, 224), (256, 300), (301, 256), (640, 427), (227, 333), (31, 1000)],
)
def test_bit_equal_to_torchvision_at_the_sizes_of_imagenet(width: int, height: int):
    image = photo(width, height)
    np.testing.assert_array_equal(preprocess(image, IMAGENET), torchvision_recipe(image, IMAGENET).numpy(), strict=True)


@given(sides, sides)
def test_bit_equal_to_torchvision_for_grey_models(width: int, height: int):
    image = photo(width, height)
    np.testing.assert_array_equal(preprocess(image, GREY), torchvision_recipe(image, GREY).numpy(), strict=True)


@pytest.mark.parametrize(("side", "offset"), [(256, 16), (257, 16), (258, 17), (259, 18), (261, 18)])
def test_crop_offset_rounds_halves_to_even(side: int, offset: int):
    ramp = np.tile(np.arange(side, dtype=np.uint16) % 256, (side, 1)).astype(np.uint8)
    frame = Preprocessing("L", side, (224, 224), (0.0,), (1.0,)).frame(Image.fromarray(ramp))
    np.testing.assert_array_equal(frame[0, :, 0], ramp[0, offset : offset + 224])


def test_normalize_gives_new_contiguous_channels_first():
    frames = RNG.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    before = frames.copy()
    out = SMALL.normalize(frames)
    assert (out.shape, out.dtype, out.flags.c_contiguous, out.flags.owndata) == ((2, 3, 4, 5), np.float32, True, True)
    np.testing.assert_array_equal(frames, before)
    np.testing.assert_array_equal(out, SMALL.normalize(np.asfortranarray(frames)))
    frames.flags.writeable = False
    np.testing.assert_array_equal(out, SMALL.normalize(frames))


def test_frame_belongs_to_the_caller():
    frame = SMALL.frame(photo(50, 60))
    assert frame.shape == (32, 36, 3)
    assert frame.flags.writeable
    assert frame.flags.c_contiguous
    assert GREY.frame(photo(28, 28)).shape == (28, 28, 1)


@pytest.mark.parametrize("recipe", [IMAGENET, SMALL, GREY])
def test_json_round_trip(recipe: Preprocessing):
    assert Preprocessing.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_mean_and_std_of_imagenet():
    assert (IMAGENET.mean, IMAGENET.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_json_says_the_whole_recipe():
    assert GREY.to_json() == {
        "mode": "L",
        "resize_shorter_side": 28,
        "interpolation": "bilinear-antialias",
        "crop": [28, 28],
        "scale": 255,
        "mean": [0.286],
        "std": [0.353],
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interpolation": "bicubic"}, "interpolation"),
        ({"scale": 1}, "scale"),
    ],
)
def test_json_of_another_recipe_is_refused(changes: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message):
        Preprocessing.from_json(GREY.to_json() | changes)


@pytest.mark.parametrize("key", list(GREY.to_json()))
def test_json_without_a_key_is_refused(key: str):
    record = GREY.to_json()
    del record[key]
    with pytest.raises(KeyError, match=key):
        Preprocessing.from_json(record)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "CMYK"}, "expected RGB or L, found 'CMYK'"),
        ({"mode": "L"}, "mode L has 1 channels, found 3 means and 3 standard deviations"),
        ({"mean": (0.5,)}, "mode RGB has 3 channels, found 1 means and 3"),
        ({"std": (0.5, 0.0, 0.5)}, "std: expected positive numbers"),
        ({"std": (0.5, -1.0, 0.5)}, "std: expected positive numbers"),
        ({"std": (0.5, math.nan, 0.5)}, "std: expected positive numbers"),
        ({"std": (0.5, math.inf, 0.5)}, "std: expected positive numbers"),
        ({"mean": (0.5, math.nan, 0.5)}, "mean: expected finite numbers"),
        ({"size": (0, 32)}, "expected resize >= size >= 1, found resize 40"),
        ({"size": (32, 41)}, "expected resize >= size >= 1, found resize 40"),
    ],
)
def test_senseless_recipes_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message):
        replace(SMALL, **changes)


def test_16_bit_grey_keeps_its_upper_byte():
    deep = (RNG.integers(0, 65536, (28, 28))).astype(np.uint16)
    expected = (deep >> 8).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        frame = GREY.frame_from_file(encoded(Image.fromarray(deep), kind))
        np.testing.assert_array_equal(frame[..., 0], expected)
    big_endian = Image.frombytes("I;16B", (28, 28), deep.astype(">u2").tobytes())
    np.testing.assert_array_equal(np.asarray(convert_mode(big_endian, "L")), expected)
    np.testing.assert_array_equal(np.asarray(convert_mode(Image.fromarray(deep.astype(np.int32)), "L")), expected)
    rgb = replace(SMALL, resize=28, size=(28, 28)).frame_from_file(encoded(Image.fromarray(deep), "PNG"))
    np.testing.assert_array_equal(rgb, np.repeat(expected[..., None], 3, axis=2))


def test_palette_gives_its_colours_not_its_indices():
    image = photo(48, 48).quantize(16)
    frame = SMALL.frame_from_file(encoded(image, "PNG"))
    np.testing.assert_array_equal(frame, SMALL.frame(image.convert("RGB")))


def test_cmyk_jpeg():
    blob = encoded(photo(48, 40).convert("CMYK"), "JPEG")
    with Image.open(io.BytesIO(blob)) as image:
        expected = image.convert("RGB")
    np.testing.assert_array_equal(SMALL.frame_from_file(blob), SMALL.frame(expected))


def test_alpha_is_dropped():
    image = photo(48, 48, "RGBA")
    frame = SMALL.frame_from_file(encoded(image, "PNG"))
    colours = Image.fromarray(np.asarray(image)[..., :3].copy())
    np.testing.assert_array_equal(frame, SMALL.frame(colours))


def test_grey_file_for_a_colour_model_has_three_equal_channels():
    frame = SMALL.frame_from_file(encoded(photo(48, 48, "L"), "PNG"))
    np.testing.assert_array_equal(frame[..., 0], frame[..., 1])
    np.testing.assert_array_equal(frame[..., 0], frame[..., 2])


# what undoes each EXIF orientation (EXIF 2.32, tag 0x0112), on (H, W, C)
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_rotation_is_undone(orientation: int):
    image = photo(20, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.asarray(decode(encoded(image, "PNG", exif=exif)))
    np.testing.assert_array_equal(pixels, UPRIGHT[orientation](np.asarray(image)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wanted", ["RGB", "L"])
def test_every_mode_of_pillow_becomes_the_models(mode: str, wanted: str):
    assert convert_mode(Image.new(mode, (5, 4)), wanted).mode == wanted


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM"])
def test_truncated_files(kind: str, tmp_path: Path):
    blob = encoded(photo(60, 50), kind)
    path = tmp_path / "cut.img"
    path.write_bytes(blob[: len(blob) // 2])
    with pytest.raises(DataError, match=r"image .*cut\.img: expected a readable image, found: .*; repair or remove it"):
        SMALL.frame_from_file(path)


@pytest.mark.parametrize("blob", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", bytes(5000)])
def test_files_that_are_no_images(blob: bytes):
    with pytest.raises(DataError, match=rf"image {len(blob)} bytes: expected a readable image"):
        decode(blob)


@pytest.mark.parametrize(("width", "height"), [(1, 2000), (2000, 1)])
def test_strips_that_would_fill_the_memory_are_refused(width: int, height: int):
    with pytest.raises(DataError, match=rf"image of {width}x{height} pixels: expected sides within a factor of"):
        SMALL.frame(photo(width, height))


def test_missing_file_and_folder(tmp_path: Path):
    with pytest.raises(DataError, match=r"image .*gone\.png: no such file"):
        decode(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"expected a readable image, found: .*Is a directory"):
        decode(tmp_path)


def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"expected a readable image, found: .*decompression bomb"):
        decode(encoded(photo(60, 50), "PNG"))


ENCODED = {kind: encoded(photo(24, 20), kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "DDS")}


@given(st.sampled_from(sorted(ENCODED)), st.data())
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_files_decode_or_are_named_but_never_crash(kind: str, data: st.DataObject):
    blob = bytearray(ENCODED[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        blob[data.draw(st.integers(0, min(len(blob), 400) - 1))] = data.draw(st.integers(0, 255))
    keep = data.draw(st.integers(0, len(blob)))
    try:
        SMALL.frame_from_file(bytes(blob[:keep]))
    except DataError as error:
        assert "expected a readable image" in str(error)  # noqa: PT017
