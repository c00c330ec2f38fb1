"""From the user's name or factory to a network ready for export: module, preprocessing, labels, weights."""

import ast
import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnetrt.errors import UsageError
from resnetrt.models.definitions import definition
from resnetrt.models.factory import Built, build_foreign
from resnetrt.models.forward import forward_once
from resnetrt.models.settle import SEED, settle_batchnorm
from resnetrt.models.weights import StoredWeights, WeightsSource, fill, read_weights, stored_classes
from resnetrt.preprocess import Preprocessing

_log = logging.getLogger(__name__)

RANDOM = WeightsSource(f"random (seed {SEED})", None, "native")
PRETRAINED = Path(__file__).parent / "pretrained"


@dataclass(frozen=True)
class ResolvedModel:
    """A float32 network on the CPU in evaluation mode, with everything that belongs to it.

    `input_shape` is `(C, H, W)`. `weights` is None when the user's factory brought its own. `spec` is JSON that
    rebuilds the network: `resolve(spec.get("definition") or spec["factory"], path, **spec["options"])`.
    """

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    input_shape: tuple[int, int, int]
    spec: dict[str, Any] = field(default_factory=dict)
    weights: WeightsSource | None = None


def resolve(model: str, weights: Path | None = None, **options: Any) -> ResolvedModel:
    """Build `model`: a registered name, `package.module:factory`, `torchvision:NAME` or `timm:NAME`.

    `options` are fields of `ResNetConfig` for a registered name; options that are None are ignored. Without `weights` a
    definition gets its shipped weights, or random ones that are the same every time. A network of the registry, of
    torchvision or of timm, or of a factory with an argument `num_classes`, gets as many classes as the file has, unless
    `num_classes` is given. Nothing is downloaded.
    `NAME(option=value, ...)` gives options too, as literals of Python; so a user's factory gets any arguments it has.
    Raises `UsageError`, `WeightsError` or `BackendMissing`.
    """
    model, arguments = split_arguments(model)
    options = arguments | {name: value for name, value in options.items() if value is not None}
    build = _resolve_foreign if ":" in model else _resolve_definition
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        return build(model, weights, options)


def split_arguments(model: str) -> tuple[str, dict[str, Any]]:
    """`mynet:resnet18` and `{"num_classes": 10}` of `mynet:resnet18(num_classes=10)`. Raises `UsageError`."""
    name, bracket, _ = model.partition("(")
    if not bracket:
        return model, {}
    try:
        call = ast.parse(f"_{model[len(name) :]}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        arguments = {item.arg or "": ast.literal_eval(item.value) for item in call.keywords}
        json.dumps(arguments, allow_nan=False)  # the bundle stores them
        if "" in arguments:
            raise ValueError
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise UsageError(
            f"model {model!r}: expected NAME(option=value, ...) with numbers, strings, booleans, None or lists of these"
        ) from error
    return name, arguments


def _resolve_definition(name: str, weights: Path | None, options: dict[str, Any]) -> ResolvedModel:
    chosen = definition(name, **options)
    shipped = PRETRAINED / chosen.pretrained if weights is None and chosen.pretrained else None
    file = weights or shipped
    stored = read_weights(file) if file else None
    torch.manual_seed(SEED)
    module = chosen.build()
    if stored and (classes := _classes(module, stored, options)):
        options = {**options, "num_classes": classes}
        chosen = definition(name, **options)
        module = chosen.build()
    source = _fill(module, stored, chosen.input_shape)
    if shipped:
        source = replace(source, path=None)  # the name finds them, wherever this package is installed
    spec = {"definition": name, "options": options}
    return ResolvedModel(name, module, chosen.preprocessing, chosen.labels, chosen.input_shape, spec, source)


def _resolve_foreign(model: str, weights: Path | None, options: dict[str, Any]) -> ResolvedModel:
    stored = read_weights(weights) if weights else None
    built = build_foreign(model, options)
    if stored and built.takes_classes and (classes := _classes(built.module, stored, options)):
        options = {**options, "num_classes": classes}
        built = build_foreign(model, options)
    _check_logits(model, built)
    source = _fill(built.module, stored, built.input_shape) if stored or built.random else None
    spec = {"factory": model, "options": options}
    return ResolvedModel(model, built.module, built.preprocessing, built.labels, built.input_shape, spec, source)


def _classes(module: nn.Module, stored: StoredWeights, options: dict[str, Any]) -> int | None:
    """The file's number of classes, if the user named none and the network differs from the file in that alone."""
    classes = None if "num_classes" in options else stored_classes(module, stored)
    if classes:
        _log.warning("weights %s: has %d classes, so the network gets as many", stored.path, classes)
    return classes


def _fill(module: nn.Module, stored: StoredWeights | None, input_shape: tuple[int, int, int]) -> WeightsSource:
    if stored is not None:
        return fill(module, stored)
    settle_batchnorm(module, input_shape)
    return RANDOM


def _check_logits(model: str, built: Built) -> None:
    """Run one image: later stages need a classifier, and an error is clearest here."""
    logits = forward_once(built.module, torch.zeros(1, *built.input_shape), model)
    if built.labels and len(built.labels) != logits.shape[1]:
        raise UsageError(f"{model}: expected {logits.shape[1]} labels, one per logit, found {len(built.labels)}")
