"""The raw contents of a `ModelInferRequest`, taken out of its bytes without a copy.

Fields of a protobuf message may come in any order, so the bytes that remain after removing raw_input_contents are the
same message without this field. Protobuf's own parser reads the rest, and it alone decides what is well-formed. For the
wire format see https://protobuf.dev/programming-guides/encoding/.
"""

_RAW_INPUT_CONTENTS = 7 << 3 | 2  # the tag of field 7, length-delimited
_LENGTH_DELIMITED = 2
_MOST_LENGTH_BYTES = 5
_MOST_FIELDS = 256  # of a message: a name, a version, an id, and some parameters, inputs and outputs


def split_raw(blob: bytes) -> tuple[bytes, list[memoryview]] | None:
    """`blob` without its raw_input_contents, and these as views of `blob`; None for more fields than a request has.

    Clients send nothing but whole length-delimited fields numbered up to 15; any other blob is given back as it is.
    Two bytes are enough for a field, and each field costs time and memory here, while every other client waits.
    """
    view = memoryview(blob)
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    at = kept_from = fields = 0
    while at < len(blob):
        fields += 1
        if fields > _MOST_FIELDS:
            return None
        start, tag = at, blob[at]
        if tag >= 0x80 or tag & 7 != _LENGTH_DELIMITED:
            return blob, []
        length, at = _length(blob, at + 1)
        if not 0 <= length <= len(blob) - at:
            return blob, []
        if tag == _RAW_INPUT_CONTENTS:
            rest.append(view[kept_from:start])
            raw.append(view[at : at + length])
            kept_from = at + length
        at += length
    return b"".join((*rest, view[kept_from:])), raw


def _length(blob: bytes, at: int) -> tuple[int, int]:
    """The number at `at` and where it ends; -1 if it does not end."""
    value = 0
    for index, byte in enumerate(blob[at : at + _MOST_LENGTH_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    return -1, at
