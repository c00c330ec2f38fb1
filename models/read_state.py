"""Read a weights file into named tensors without ever running code from it."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from resnetrt.errors import WeightsError
from resnetrt.models.read_pickled import damaged, read_pickled

_log = logging.getLogger(__name__)

_WRAPPERS = ("state_dict", "model", "net", "weights")


def read_state(path: Path) -> tuple[dict[str, Tensor], str, str]:
    """The tensors in `path` without wrappers, the file's SHA-256, and what was taken.

    If a file holds several sets of weights, such as `model` and `model_ema`, the path `FILE#model_ema` selects one of
    them; without a selection `state_dict`, `model`, `net` or `weights` is taken, with a warning. "What was taken" is
    the file's name, and the set's name if there are several. The file is read once, so the hash is that of the bytes
    that were parsed. Raises `WeightsError`.
    """
    name, asks, wanted = path.name.rpartition("#")
    if asks and not path.exists():
        path = path.with_name(name)
    else:
        wanted = ""
    stored, sha256 = _read(path)
    chosen, taken, others = _choose(stored, wanted, path)
    if others and not wanted:
        listed = ", ".join(f"{path.name}#{other}" for other in others)
        _log.warning("weights %s: took %s of several sets; ask for another with %s", path, taken, listed)
    state = _named_tensors(chosen, path)
    if not state:
        raise WeightsError(f"weights {path}: expected named tensors, found none")
    return state, sha256, f"{path.name}#{taken}" if others else path.name


def _read(path: Path) -> tuple[object, str]:
    """What the file holds, and the SHA-256 of its bytes, followed by those of its shards if it is an index."""
    lowered, shards = path.name.lower(), list[bytes]()
    if lowered.endswith(_INDEX):
        blob = _read_bytes(path)
        stored, shards = _read_index(blob, path)
    elif reader := _READERS.get(path.suffix.lower()):
        blob = _read_bytes(path)
        stored = reader(blob, path)
    else:
        kinds = ", ".join((*_READERS, _INDEX))
        raise WeightsError(f"weights {path}: expected a file named {kinds}, found {path.suffix or 'no suffix'!r}")
    digest = hashlib.sha256(blob)
    for shard in shards:
        digest.update(shard)
    return stored, digest.hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights {path}: cannot be read ({error.strerror}); check the path") from error


def _read_safetensors(blob: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(blob)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise damaged(path, "safetensors", error) from error


def _read_index(blob: bytes, path: Path) -> tuple[object, list[bytes]]:
    """The tensors of a sharded file, by its index `{"weight_map": {tensor: file}}`, and the bytes of each shard.

    A tensor is taken from the shard that the index names for it.
    """
    try:
        places = json.loads(blob)["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, 'an index of safetensors, {"weight_map": {tensor: file}}', error) from error
    state, shards = dict[str, object](), list[bytes]()
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsError(f"weights {path}: expected .safetensors files beside the index, found {name!r}")
        shard = path.with_name(name)
        shards.append(_read_bytes(shard))
        stored = _read_safetensors(shards[-1], shard)
        wanted = {tensor for tensor, place in places.items() if place == name}
        if missing := sorted(wanted - stored.keys()):
            raise WeightsError(f"weights {shard}: expected {missing[0]}, by {path.name}, found none; fetch both again")
        state |= {tensor: stored[tensor] for tensor in wanted}
    return state, shards


def _choose(state: object, wanted: str, path: Path) -> tuple[object, str, list[str]]:
    """The innermost set of weights, the `wanted` or else the usual one; its name, and the names of the others."""
    taken, others = "", list[str]()
    while isinstance(state, Mapping):
        sets = [str(name) for name, value in state.items() if _holds_tensors(value)]
        usual = next((name for name in _WRAPPERS if isinstance(state.get(name), Mapping)), None)
        lone = sets[0] if len(sets) == 1 and not any(isinstance(value, Tensor) for value in state.values()) else None
        name = wanted if wanted in sets else usual or lone
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


_READERS: dict[str, Callable[[bytes, Path], object]] = {
    ".safetensors": _read_safetensors,
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".bin", ".th", ".tar"), read_pickled),
}
_INDEX = ".safetensors.index.json"
