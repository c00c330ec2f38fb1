"""Bodies of HTTP requests and responses: bounded in size and time, compressed where the client says so."""

import asyncio
import gzip
import re
import zlib

from starlette.requests import ClientDisconnect, Request

from resnetrt.runtime.serving.faults import Kind, RequestFault, invalid
from resnetrt.runtime.serving.options import Limits

_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_LEAST_COMPRESSED = 256
_NEVER = re.compile(r"\s*q=0(\.0{0,3})?\s*")


async def read_body(request: Request, limits: Limits) -> bytearray:
    """The request's body, decompressed. Raises `RequestFault` if it is too large, too slow, cut off or damaged."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in (*_WINDOW, "identity"):
        raise RequestFault(Kind.ENCODING, f"Content-Encoding: expected gzip or deflate, found {encoding[:60]!r}")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limits.max_body_bytes:
        raise _too_large(limits)
    try:
        body = await asyncio.wait_for(_receive(request, limits), limits.body_timeout_s)
    except asyncio.TimeoutError as error:  # another class than TimeoutError in Python 3.10
        raise RequestFault(Kind.SLOW, f"the body did not arrive within {limits.body_timeout_s:g} s") from error
    except ClientDisconnect as error:
        raise invalid("the connection ended before the body did") from error
    if encoding == "identity":
        return body
    return await asyncio.to_thread(decompress, body, encoding, limits)


async def _receive(request: Request, limits: Limits) -> bytearray:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.max_body_bytes:
            raise _too_large(limits)
    return body


def decompress(body: bytes | bytearray, encoding: str, limits: Limits) -> bytearray:
    """`body` unpacked, never more than the limit. Raises `RequestFault` if it is damaged, cut off or too large."""
    unpacker = zlib.decompressobj(_WINDOW[encoding])
    try:
        unpacked = bytearray(unpacker.decompress(body, limits.max_body_bytes + 1))
    except zlib.error as error:
        raise invalid(f"the body is no valid {encoding}: {error}") from error
    if len(unpacked) > limits.max_body_bytes:
        raise _too_large(limits)
    if not unpacker.eof or unpacker.unused_data:
        raise invalid(f"the body is no valid {encoding}: {'more follows it' if unpacker.eof else 'it is cut off'}")
    return unpacked


def compress(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """`body` in an encoding that the client accepts and its name, or as it is and None."""
    if len(body) < _LEAST_COMPRESSED:
        return body, None
    offers = {
        name.strip().lower() for name, _, rank in map(_split_offer, accepted.split(",")) if not _NEVER.fullmatch(rank)
    }
    if "gzip" in offers:
        return gzip.compress(body, 1), "gzip"
    if "deflate" in offers:
        return zlib.compress(body, 1), "deflate"
    return body, None


def _split_offer(offer: str) -> tuple[str, str, str]:
    return offer.partition(";")


def _too_large(limits: Limits) -> RequestFault:
    return RequestFault(Kind.TOO_LARGE, f"the body is too large: expected at most {limits.max_body_bytes} bytes")
