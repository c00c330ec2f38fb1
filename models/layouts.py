"""Names of a ResNet's tensors in other projects' files, and which definition a file fits.

The mapping goes from native names to the file's names, so errors can quote the file's own names.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from resnetrt.models.definitions import DEFINITIONS, Definition
from resnetrt.models.resnet import ResNet, ResNetConfig

Shapes = Mapping[str, tuple[int, ...]]

OPTIONAL = "num_batches_tracked"  # a counter that inference never reads; older files lack it


def other_name(key: str, shortcut: str, classifier: str) -> str:
    """The torchvision-style name of the native `key`; a key of any other form is returned unchanged."""
    match key.split("."):
        case ["stem", kind, leaf]:
            return f"{kind}1.{leaf}"
        case ["stages", stage, block, "shortcut", kind, leaf]:
            return f"layer{int(stage) + 1}.{block}.{shortcut}.{0 if kind == 'conv' else 1}.{leaf}"
        case ["stages", stage, block, conv, kind, leaf]:
            return f"layer{int(stage) + 1}.{block}.{kind}{conv[-1]}.{leaf}"
        case ["fc", leaf]:
            return f"{classifier}.{leaf}"
    return key


LAYOUTS: dict[str, Callable[[str], str]] = {
    "native": str,
    "torchvision": partial(other_name, shortcut="downsample", classifier="fc"),  # and timm
    "cifar": partial(other_name, shortcut="shortcut", classifier="linear"),
}


@dataclass(frozen=True)
class Fit:
    """How a file's tensors compare with a model's under one layout; `names` maps native names to the file's."""

    layout: str
    names: dict[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether every tensor fits, so that the file can be loaded."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def total(self) -> int:
        """How many tensors the model or the file has, without the optional counters."""
        return len(_needed(self.names.values())) + len(self.unexpected)

    @property
    def matched(self) -> int:
        """How many of `total` are in both, with equal shapes."""
        return self.total - len(self.missing) - len(self.unexpected) - len(self.misshapen)


def fit(model: Shapes, stored: Shapes, layouts: Mapping[str, Callable[[str], str]] = LAYOUTS) -> Fit:
    """Compare under the layout that shares most names with the file; of equal layouts the first wins."""
    layout = max(layouts, key=lambda name: len({layouts[name](key) for key in model} & stored.keys()))
    names = {key: layouts[layout](key) for key in model}
    expected = {names[key]: shape for key, shape in model.items()}
    return Fit(
        layout,
        names,
        missing=tuple(_needed(name for name in expected if name not in stored)),
        unexpected=tuple(sorted(name for name in stored if name not in expected)),
        misshapen=tuple(
            f"{name} (expected {expected[name]}, found {stored[name]})"
            for name in expected
            if name in stored and expected[name] != stored[name]
        ),
    )


def nearest_definition(stored: Shapes, model: ResNetConfig) -> str:
    """What to do with a file that does not fit a network of the configuration `model`: what it fits best."""
    fits = [
        (definition, options, fit(_shapes(definition, options), stored)) for definition, options in _candidates(stored)
    ]
    definition, options, best = max(fits, key=lambda item: (item[2].matched / item[2].total, -len(item[1])))
    if best.matched < best.total / 2:
        return "no definition is near; pass other weights"
    if replace(definition.config, **options) == model:
        return f"{best.matched} of {best.total} tensors fit; pass other weights"
    name = " ".join([definition.name, *(["with"] if options else []), *(f"{k}={v}" for k, v in options.items())])
    flags = [f"--{key.replace('_', '-')} {value}" for key, value in options.items()]
    pass_it = f"pass that model with {' '.join(flags)}" if flags else "pass that model"
    if best.exact:
        return f"the file fits {name}; {pass_it}, or other weights"
    return f"the nearest definition is {name} ({best.matched} of {best.total} tensors fit); {pass_it}, or other weights"


def _needed(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith(OPTIONAL)]


def _candidates(stored: Shapes) -> list[tuple[Definition, dict[str, Any]]]:
    """Every definition, with the options that the file shows to differ from the definition's own."""
    seen = _observed(stored)
    candidates = []
    for definition in DEFINITIONS.values():
        config, options = definition.config, dict(seen)
        if options.pop("projected", False):
            options["shortcut"] = "projection"
        elif config.shortcut == "projection":
            options["shortcut"] = "pad"
        candidates.append((definition, {k: v for k, v in options.items() if v != getattr(config, k)}))
    return candidates


def _observed(stored: Shapes) -> dict[str, Any]:
    seen: dict[str, Any] = {"projected": any(".downsample." in name or ".shortcut." in name for name in stored)}
    for name in ("stem.conv.weight", "conv1.weight"):
        if len(shape := stored.get(name, ())) == 4 and min(shape) > 0:
            seen |= {"in_channels": shape[1], "stem": "small" if shape[2] == 3 else "imagenet"}
    for name in ("fc.weight", "linear.weight"):
        if len(shape := stored.get(name, ())) == 2 and min(shape) > 0:
            seen["num_classes"] = shape[0]
    return seen


def _shapes(definition: Definition, options: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {
            name: tuple(value.shape)
            for name, value in ResNet(replace(definition.config, **options)).state_dict().items()
        }
