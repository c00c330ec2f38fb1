"""Read a weights file into named tensors without ever running code from it."""

import hashlib
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from resnetrt.errors import WeightsError

_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel and torch.compile


def read_state(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors in `path`, wrappers and `module.` prefixes taken off, and the file's SHA-256.

    The file is read once, so the hash is of the very bytes that were parsed. Raises `WeightsError`.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise WeightsError(
            f"weights {path}: expected a file named {', '.join(_READERS)}, found {path.suffix or 'no suffix'!r}"
        )
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights {path}: cannot be read ({error.strerror}); check the path") from error
    state = _strip_prefixes(_named_tensors(reader(blob, path), path))
    if not state:
        raise WeightsError(f"weights {path}: expected named tensors, found none")
    return state, hashlib.sha256(blob).hexdigest()


def _read_safetensors(blob: bytes, path: Path) -> object:
    try:
        return safetensors.torch.load(blob)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise _damaged(path, "safetensors", error) from error


def _read_pickled(blob: bytes, path: Path) -> object:
    try:
        _check_crc(blob)
        with warnings.catch_warnings(action="ignore"):  # of pickle protocols; the error below says what matters
            return torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything: EOFError, KeyError, ValueError, RuntimeError
        if not _needs_code(error, blob):
            raise _damaged(path, "a torch.save state dict", error) from error
        code = re.search(r"GLOBAL (\S+)", str(error))
        found = f"pickled code ({code[1]})" if code else "pickled code"
        raise WeightsError(
            f"weights {path}: expected tensors only, found {found}, which is never run; convert it where you trust it: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from error


def _check_crc(blob: bytes) -> None:
    # torch.load does not compare the checksums that torch.save stored
    if zipfile.is_zipfile(io.BytesIO(blob)):
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            if (broken := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"wrong checksum of {broken}")


def _needs_code(error: Exception, blob: bytes) -> bool:
    text = str(error)
    if "GLOBAL" in text or "TorchScript" in text:
        return True
    # a plain pickle of a newer protocol: well-formed, but torch's restricted reader stops at an unknown instruction
    return isinstance(error, pickle.UnpicklingError) and blob[:1] == b"\x80" and blob[-1:] == b"."


def _damaged(path: Path, kind: str, error: Exception) -> WeightsError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
    return WeightsError(
        f"weights {path}: expected {kind}, found a truncated or damaged file ({reason}); fetch it again"
    )


def _named_tensors(state: object, path: Path) -> dict[str, Tensor]:
    while isinstance(state, Mapping) and (wrapper := next((w for w in _WRAPPERS if _is_wrapper(state, w)), None)):
        state = state[wrapper]
    if not isinstance(state, Mapping):
        raise WeightsError(f"weights {path}: expected a dictionary of tensors, found {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"weights {path}: expected only named tensors, found {type(value).__name__} at {name!r}; "
                "save model.state_dict()"
            )
    return dict(state)


def _is_wrapper(state: Mapping[Any, Any], name: str) -> bool:
    return isinstance(state.get(name), Mapping)


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES * 2:  # either may be the outer one
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


_READERS: dict[str, Callable[[bytes, Path], object]] = {
    ".safetensors": _read_safetensors,
    **dict.fromkeys((".pth", ".pt", ".bin", ".th", ".tar"), _read_pickled),
}
