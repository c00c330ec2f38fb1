"""JPEG and PNG files as input, preprocessed as the bundle says."""

import io

import numpy as np
import probes
import pytest
import tiny_bundle
from PIL import Image
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException


def encode(frame: np.ndarray, form: str, size: tuple[int, int] = (16, 16)) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame).resize(size).save(stream, form)
    return stream.getvalue()


def ask(server, blobs: list[bytes], kind, shape: list[int] | None = None, **options) -> np.ndarray:
    client = kind.InferenceServerClient(server.http if kind is http else server.grpc)
    tensor = kind.InferInput(probes.INPUT, shape or [len(blobs)], "BYTES")
    tensor.set_data_from_numpy(np.array(blobs, dtype=object).reshape(shape or [len(blobs)]), **options)
    try:
        return client.infer(probes.MODEL, [tensor]).as_numpy(probes.OUTPUT)
    finally:
        client.close()


@pytest.mark.parametrize("kind", [http, grpc], ids=["http", "grpc"])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_files_give_what_the_preprocessed_image_gives(server, kind, form):
    blobs = [encode(frame, form, size) for frame, size in zip(tiny_bundle.frames(2), [(40, 30), (16, 16)], strict=True)]
    frames = np.stack([tiny_bundle.PREPROCESSING.frame_from_file(blob) for blob in blobs])
    expected = tiny_bundle.reference(tiny_bundle.PREPROCESSING.normalize(frames))
    for shape in ([2], [2, 1]):
        np.testing.assert_allclose(ask(server, blobs, kind, shape), expected, rtol=1e-4, atol=1e-4)


def header_of(width: int, height: int) -> bytes:
    """A PNG that claims to be that large; only its header is real."""
    blob = bytearray(encode(tiny_bundle.frames(1)[0], "PNG"))
    blob[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    blob[29:33] = zlib.crc32(blob[12:29]).to_bytes(4, "big")
    return bytes(blob)


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "neither"),
        (b"no image", "expected JPEG or PNG bytes"),
        (encode(tiny_bundle.frames(1)[0], "GIF"), "expected JPEG or PNG bytes"),
        (encode(tiny_bundle.frames(1)[0], "PNG")[:-30], "image 1: .*expected a readable image"),
        (header_of(10_000, 10_000), "at most 50000000 pixels, found 10000x10000"),
        (header_of(60_000, 60_000), "at most 50000000 pixels, found several times as many"),
    ],
    ids=["empty", "text", "gif", "cut", "bomb", "huge"],
)
def test_what_is_no_picture_is_refused(server, blob, message):
    good = encode(tiny_bundle.frames(1)[0], "PNG")
    with pytest.raises(InferenceServerException, match=message) as caught:
        ask(server, [good, blob], http)
    assert caught.value.status() == "400"


def test_json_can_not_hold_pictures(server):
    with pytest.raises(InferenceServerException, match="as binary data"):
        ask(server, [b"text"], http, binary_data=False)
