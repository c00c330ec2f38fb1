from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from resnetrt.bundle import Bundle
from resnetrt.errors import BundleError
from resnetrt.golden import FILE, Golden

RNG = np.random.default_rng(5)


def golden(count: int = 3) -> Golden:
    frames = RNG.integers(0, 256, (count, 8, 6, 3), dtype=np.uint8)
    return Golden(frames, RNG.normal(size=(count, 10)).astype(np.float32))


def store(bundle: Bundle, blob: bytes) -> Bundle:
    with bundle.edit() as editor:
        editor.write(FILE, blob)
    return Bundle.open(bundle.path)


@pytest.mark.parametrize("count", [1, 3])
def test_round_trip(bundle: Bundle, count: int):
    saved = golden(count)
    back = Golden.of(store(bundle, saved.to_bytes()))
    np.testing.assert_array_equal(back.frames, saved.frames)
    np.testing.assert_array_equal(back.logits, saved.logits)
    assert (back.frames.dtype, back.logits.dtype) == (np.uint8, np.float32)


def test_views_are_stored_as_they_look(bundle: Bundle):
    """safetensors writes the buffer of an array that is not contiguous, silently in the wrong order."""
    base = golden(4)
    view = Golden(base.frames.transpose(0, 2, 1, 3)[::2], base.logits[::2])
    back = Golden.of(store(bundle, view.to_bytes()))
    np.testing.assert_array_equal(back.frames, view.frames)
    np.testing.assert_array_equal(back.logits, view.logits)


def test_equal_images_give_equal_bytes():
    saved = golden()
    assert saved.to_bytes() == Golden(saved.frames.copy(), saved.logits.copy()).to_bytes()


def test_a_bundle_without_golden_images(bundle: Bundle):
    with pytest.raises(BundleError, match=r"no file golden\.safetensors in its manifest"):
        Golden.of(bundle)


def test_a_missing_tensor(bundle: Bundle):
    blob = save({"frames": golden().frames})
    with pytest.raises(
        BundleError, match=r"golden\.safetensors: expected tensors frames and logits, found no 'logits'"
    ):
        Golden.of(store(bundle, blob))


@pytest.mark.parametrize("spoil", [lambda blob: b"garbage", lambda blob: blob[:-7], lambda blob: b""])
def test_damaged_bytes(bundle: Bundle, spoil: Callable[[bytes], bytes]):
    with pytest.raises(BundleError, match=r"golden\.safetensors: "):
        Golden.of(store(bundle, spoil(golden().to_bytes())))


@pytest.mark.parametrize(
    ("frames", "logits"),
    [
        (np.zeros((3, 8, 6, 3), np.float32), np.zeros((3, 10), np.float32)),
        (np.zeros((3, 8, 6, 3), np.uint8), np.zeros((2, 10), np.float32)),
        (np.zeros((3, 8, 6), np.uint8), np.zeros((3, 10), np.float32)),
        (np.zeros((3, 8, 6, 3), np.uint8), np.zeros((3, 10), np.float64)),
        (np.zeros((0, 8, 6, 3), np.uint8), np.zeros((0, 10), np.float32)),
    ],
)
def test_tensors_of_another_kind(bundle: Bundle, frames: np.ndarray, logits: np.ndarray):
    blob = save({"frames": frames, "logits": logits})
    with pytest.raises(
        BundleError, match=r"golden\.safetensors: expected uint8 \(n, H, W, C\) and float32 \(n, classes\)"
    ):
        Golden.of(store(bundle, blob))


def test_file_deleted_after_opening(bundle: Bundle, tmp_path: Path):
    opened = store(bundle, golden().to_bytes())
    (opened.path / FILE).unlink()
    with pytest.raises(BundleError, match=r"golden\.safetensors: .*No such file"):
        Golden.of(opened)


def test_the_noise_of_eager_is_stored(tmp_path):
    from safetensors.numpy import load

    assert load(Golden(golden().frames, golden().logits, 0.5).to_bytes())["noise"] == [0.5]
    assert "noise" not in load(golden().to_bytes())
