"""Load weights into a model: every key, shape and value is checked before anything is changed."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from resnetrt.errors import WeightsError
from resnetrt.models.layouts import LAYOUTS, Fit, fit, nearest_definition
from resnetrt.models.read_state import read_state
from resnetrt.models.resnet import ResNet

_log = logging.getLogger(__name__)

_NAMED = 3  # keys of each kind that an error spells out


@dataclass(frozen=True)
class WeightsSource:
    """Where weights came from: the file's name, its SHA-256 (None without a file) and the layout of its keys.

    `path` is the file's absolute path, with the set that was asked for; None for random and for shipped weights.
    """

    name: str
    sha256: str | None
    layout: str
    path: str | None = None


@dataclass(frozen=True)
class StoredWeights:
    """The named tensors of the file at `path`, its SHA-256, and the `name` of what was taken of it."""

    state: Mapping[str, Tensor]
    sha256: str
    name: str
    path: Path


def read_weights(path: Path) -> StoredWeights:
    """Read `path` for `fill`. Raises `WeightsError` for a file that is damaged or needs code to be run."""
    state, sha256, name = read_state(path)
    return StoredWeights(state, sha256, name, path)


def load_weights(model: nn.Module, path: Path) -> WeightsSource:
    """Copy the weights in `path` into `model`: all of them, or none.

    A `ResNet` accepts its own keys and those of the other `LAYOUTS`; any other module accepts its own only. A prefix of
    all keys, such as `model.`, is dropped if the rest fits, with a warning.
    Raises `WeightsError` for a file that is damaged, needs code to be run, does not fit, or holds NaN or infinity.
    """
    return fill(model, read_weights(path))


def fill(model: nn.Module, stored: StoredWeights) -> WeightsSource:
    """Copy `stored` into `model`, as `load_weights` does."""
    expected = _tensors(model)
    comparison, state, prefix = _nearest_fit(model, expected, stored.state)
    if not comparison.exact:
        advice = nearest_definition(_shapes(state), model.config) if isinstance(model, ResNet) else "pass other weights"
        raise WeightsError(
            f"weights {stored.path}: the keys do not fit the model: {_differences(comparison)}; {advice}"
        )
    named = {native: state[name] for native, name in comparison.names.items() if name in state}
    for native, value in named.items():
        if expected[native].is_floating_point():
            _check_value(prefix + comparison.names[native], value, stored.path)
    if prefix:
        _log.warning("weights %s: dropped %r, with which all keys begin", stored.path, prefix)
    model.load_state_dict(named, strict=False)
    return WeightsSource(stored.name, stored.sha256, comparison.layout, str(stored.path.absolute()))


def stored_classes(model: nn.Module, stored: StoredWeights) -> int | None:
    """The number of classes in the file, if nothing but that keeps it from fitting `model`."""
    expected = _tensors(model)
    comparison, state, _ = _nearest_fit(model, expected, stored.state)
    if comparison.missing or comparison.unexpected:
        return None
    pairs = [
        (value.shape, state[name].shape) for key, value in expected.items() if (name := comparison.names[key]) in state
    ]
    unlike = [(ours, theirs) for ours, theirs in pairs if ours != theirs]
    classes = {(ours[:1], theirs[:1]) for ours, theirs in unlike}
    if len(classes) != 1 or any(len(ours) == 0 or ours[1:] != theirs[1:] for ours, theirs in unlike):
        return None
    return int(unlike[0][1][0])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _nearest_fit(
    model: nn.Module, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[Fit, Mapping[str, Tensor], str]:
    """Of the comparisons with and without prefixes that all keys have the one that fits best, its keys, the prefix."""
    layouts = LAYOUTS if isinstance(model, ResNet) else {"native": LAYOUTS["native"]}
    rest, prefix = state, ""
    fits = [(fit(_shapes(expected), _shapes(state), layouts), state, "")]
    while not fits[-1][0].exact and (head := _common_head(rest)):
        prefix += head
        rest = {name.removeprefix(head): value for name, value in rest.items()}
        fits.append((fit(_shapes(expected), _shapes(rest), layouts), rest, prefix))
    return max(fits, key=lambda item: item[0].matched)


def _common_head(names: Iterable[str]) -> str:
    """`model.` if all names begin with it, empty if they differ."""
    heads = {name.partition(".")[0] if "." in name else "" for name in names}
    head = heads.pop() if len(heads) == 1 else ""
    return f"{head}." if head else ""


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _differences(comparison: Fit) -> str:
    kinds = {"missing": comparison.missing, "unexpected": comparison.unexpected, "misshapen": comparison.misshapen}
    return "; ".join(f"{len(names)} {kind}: {_first(names)}" for kind, names in kinds.items() if names)


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_NAMED]) + (", ..." if len(listed) > _NAMED else "")


def _check_value(name: str, value: Tensor, path: Path) -> None:
    if not value.is_floating_point():
        raise WeightsError(f"weights {path}: {name}: expected floating point, found {value.dtype}; pass FP32 weights")
    finite = torch.isfinite(value.to(torch.float32))  # a float64 beyond float32's range is as bad as infinity
    if not bool(finite.all()):
        count = int((~finite).sum())
        raise WeightsError(
            f"weights {path}: {name}: {count} of {value.numel()} values are NaN or infinite; pass other weights"
        )
    if name.endswith("running_var") and bool((value < 0).any()):
        raise WeightsError(f"weights {path}: {name}: expected variances, found negative values; pass other weights")
