"""Read a weights file into named tensors without ever running code from it."""

import hashlib
import io
import logging
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

_log = logging.getLogger(__name__)

_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel and torch.compile


def read_state(path: Path) -> tuple[dict[str, Tensor], str, str]:
    """The tensors in `path` without wrappers and `module.` prefixes, the file's SHA-256, and what was taken.

    If a file holds several sets of weights, such as `model` and `model_ema`, the path `FILE#model_ema` selects one of
    them; without a selection `state_dict` or `model` is taken, with a warning. "What was taken" is the file's name, and
    the set's name if there are several. The file is read once, so the hash is that of the bytes that were parsed.
    Raises `WeightsError`.
    """
    name, asks, wanted = path.name.rpartition("#")
    if asks and not path.exists():
        path = path.with_name(name)
    else:
        wanted = ""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise WeightsError(
            f"weights {path}: expected a file named {', '.join(_READERS)}, found {path.suffix or 'no suffix'!r}"
        )
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights {path}: cannot be read ({error.strerror}); check the path") from error
    chosen, taken, others = _choose(reader(blob, path), wanted, path)
    if others and not wanted:
        listed = ", ".join(f"{path.name}#{other}" for other in others)
        _log.warning("weights %s: took %s of several sets; ask for another with %s", path, taken, listed)
    state = _strip_prefixes(_named_tensors(chosen, path))
    if not state:
        raise WeightsError(f"weights {path}: expected named tensors, found none")
    return state, hashlib.sha256(blob).hexdigest(), f"{path.name}#{taken}" if others else path.name


def _read_safetensors(blob: bytes, path: Path) -> object:
    try:
        return safetensors.torch.load(blob)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise _damaged(path, "safetensors", error) from error


def _read_pickled(blob: bytes, path: Path) -> object:
    try:
        _check_crc(blob)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; the error below says what matters
            return torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything: EOFError, KeyError, ValueError, RuntimeError
        if not _needs_code(error, blob):
            raise _damaged(path, "a torch.save state dict", error) from error
        code = re.search(r"GLOBAL (\S+)", str(error))
        kind = f"pickled code ({code[1]})" if code else "pickled code"
        raise WeightsError(
            f"weights {path}: expected tensors only, found {kind}, which is never run; convert it where you trust it: "
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


def _choose(state: object, wanted: str, path: Path) -> tuple[object, str, list[str]]:
    """The innermost set of weights, the `wanted` or else the usual one; its name, and the names of the others."""
    taken, others = "", list[str]()
    while isinstance(state, Mapping):
        sets = [str(name) for name, value in state.items() if _holds_tensors(value)]
        usual = next((name for name in _WRAPPERS if isinstance(state.get(name), Mapping)), None)
        name = wanted if wanted in sets else usual or (sets[0] if len(sets) == 1 == len(state) else None)
        if name is None:
            break
        taken, state = name, state[name]
        others += [other for other in sets if other != name]
    if wanted not in ("", taken):
        listed = ", ".join([taken, *others]) if taken else "one set without a name"
        raise WeightsError(f"weights {path}: expected a set called {wanted!r}, found {listed}; ask for one of these")
    return state, taken, others


def _holds_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(item, Tensor) or _holds_tensors(item) for item in _weights(value)
    )


def _weights(value: Mapping[Any, Any]) -> list[object]:
    """The values that have a name; an optimizer's state uses numbers as keys."""
    return [item for name, item in value.items() if isinstance(name, str) and name != "state"]


def _named_tensors(state: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        raise WeightsError(f"weights {path}: expected a dictionary of tensors, found {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"weights {path}: expected only named tensors, found {type(value).__name__} at {name!r}; "
                "save model.state_dict()"
            )
    return dict(state)


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES * 2:  # either prefix may be the outer one
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


_READERS: dict[str, Callable[[bytes, Path], object]] = {
    ".safetensors": _read_safetensors,
    **dict.fromkeys((".pth", ".pt", ".bin", ".th", ".tar"), _read_pickled),
}
