"""DLPack in and out by ctypes, so that tensors of torch, cupy or numpy are used where they lie.

Structures from dlpack.h, version 0.8 (https://dmlc.github.io/dlpack/latest/c_api.html); the protocol of `__dlpack__`
and its `stream` argument from the Python array API standard.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnetrt.errors import UsageError

DLPACK_CPU = 1
_CODES = {"i": 0, "u": 1, "f": 2}


class _Tensor(ctypes.Structure):
    """`DLTensor`."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """`DLManagedTensor`."""


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))

_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, (ctypes.py_object, ctypes.c_char_p)

# the same two for a capsule that is being destroyed, which must not be referred to again
_raw_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_raw_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

_exported: dict[int, Any] = {}  # address of the structure: what must live until the consumer is done


@dataclass(frozen=True)
class Borrowed:
    """Memory of somebody else's tensor; `capsule` keeps it alive."""

    address: int
    shape: tuple[int, ...]
    dtype: str
    device: tuple[int, int]
    capsule: object


def borrow(tensor: Any, stream: int | None) -> Borrowed:
    """Borrow a contiguous tensor with `__dlpack__`, ready for use in `stream` (None if the host computes).

    Raises `UsageError` for anything else.
    """
    if not hasattr(tensor, "__dlpack__") or not hasattr(tensor, "__dlpack_device__"):
        raise UsageError(
            f"expected a tensor with __dlpack__, found {type(tensor).__module__}.{type(tensor).__qualname__}"
        )
    if tensor.__dlpack_device__()[0] == DLPACK_CPU:
        stream = None  # the protocol allows no other
    try:
        capsule = tensor.__dlpack__() if stream is None else tensor.__dlpack__(stream=stream)
    except BufferError as error:  # it needs a gradient, or may not be written to
        raise UsageError(f"the tensor's package does not lend it: {error}") from error
    if not _is_valid(capsule, b"dltensor"):
        raise UsageError("expected a DLPack capsule named dltensor, found another; the tensor's package is too new")
    fields = _Managed.from_address(_pointer(capsule, b"dltensor")).tensor
    shape = tuple(fields.shape[: fields.ndim])
    if fields.strides and not _is_contiguous(shape, tuple(fields.strides[: fields.ndim])):
        raise UsageError(f"expected a contiguous tensor, found strides {tuple(fields.strides[: fields.ndim])}")
    device = (fields.device_type, fields.device_id)
    return Borrowed((fields.data or 0) + fields.byte_offset, shape, _dtype_name(fields), device, capsule)


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    if 0 in shape:
        return True
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _dtype_name(tensor: _Tensor) -> str:
    kind = {code: kind for kind, code in _CODES.items()}.get(tensor.code)
    if kind is None or tensor.lanes != 1:
        return f"dlpack type {tensor.code} with {tensor.bits} bits"
    return str(np.dtype(f"{kind}{tensor.bits // 8}"))


class DeviceTensor:
    """An output in device memory that torch, cupy and others take by `from_dlpack` without a copy.

    `owner` is referred to as long as this or a consumer's tensor lives; it keeps the memory.
    """

    def __init__(
        self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int], owner: object
    ) -> None:
        self.address, self.shape, self.dtype = address, shape, dtype
        self._device, self._owner = device, owner

    def __dlpack_device__(self) -> tuple[int, int]:
        """Device type and number."""
        return self._device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule for one consumer, unversioned whatever `max_version`.

        The values are complete: `stream` needs to wait for nothing. Raises `BufferError` for a copy, or another device.
        """
        if copy or (dl_device is not None and tuple(map(int, dl_device)) != self._device):
            raise BufferError(f"an output on device {self._device} is lent where it lies: take it, then copy it")
        shape = (ctypes.c_int64 * len(self.shape))(*self.shape)
        code, bits = _CODES[self.dtype.kind], self.dtype.itemsize * 8
        tensor = _Tensor(self.address, *self._device, len(self.shape), code, bits, 1, shape, None, 0)
        managed = _Managed(tensor, None, _release)
        address = ctypes.addressof(managed)
        _exported[address] = (managed, shape, self._owner)
        return _new(address, b"dltensor", _drop_unused)


def _forget(managed: Any) -> None:
    _exported.pop(ctypes.addressof(managed.contents), None)


_release = _Deleter(_forget)


def _destroy(capsule: int) -> None:
    """Free what no consumer took: one that did has renamed the capsule."""
    if _raw_is_valid(capsule, b"dltensor"):
        _exported.pop(_raw_pointer(capsule, b"dltensor"), None)


_destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_destroy)
_drop_unused = ctypes.cast(_destructor, ctypes.c_void_p)
