"""Load weights into a model: every key, shape and value is checked before anything is changed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from resnetrt.errors import WeightsError
from resnetrt.models.layouts import LAYOUTS, Fit, fit, nearest_definition
from resnetrt.models.read_state import read_state
from resnetrt.models.resnet import ResNet

_NAMED = 3  # keys of each kind that an error spells out


@dataclass(frozen=True)
class WeightsSource:
    """Where weights came from: the file's name, its SHA-256 (None without a file) and the layout of its keys."""

    name: str
    sha256: str | None
    layout: str


def load_weights(model: nn.Module, path: Path) -> WeightsSource:
    """Copy the weights in `path` into `model`: all of them, or none.

    A `ResNet` accepts its own keys and those of the other `LAYOUTS`; any other module accepts its own only.
    Raises `WeightsError` for a file that is damaged, needs code to be run, does not fit, or holds NaN or infinity.
    """
    state, sha256, name = read_state(path)
    expected = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    own = isinstance(model, ResNet)
    layouts = LAYOUTS if own else {"native": LAYOUTS["native"]}
    comparison = fit(_shapes(expected), _shapes(state), layouts)
    if not comparison.exact:
        advice = (
            f"{nearest_definition(_shapes(state))}; pass that model or other weights" if own else "pass other weights"
        )
        raise WeightsError(f"weights {path}: the keys do not fit the model: {_differences(comparison)}; {advice}")
    named = {native: state[name] for native, name in comparison.names.items() if name in state}
    for native, value in named.items():
        if expected[native].is_floating_point():
            _check_value(comparison.names[native], value, path)
    model.load_state_dict(named, strict=False)
    return WeightsSource(name, sha256, comparison.layout)


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
