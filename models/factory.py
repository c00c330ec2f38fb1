"""Networks defined elsewhere: the user's `package.module:factory`, `torchvision:NAME`, `timm:NAME`."""

import importlib
import inspect
import operator
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from resnetrt.errors import BackendMissing, UsageError
from resnetrt.models.definitions import DEFINITIONS
from resnetrt.models.recipes import of_timm
from resnetrt.models.settle import SEED
from resnetrt.preprocess import Preprocessing

_CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Built:
    """A foreign network; `random` says that its weights are only an initialisation.

    `takes_classes`: it can be built with another number of classes, by the option `num_classes`.
    """

    module: nn.Module
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    takes_classes: bool = True
    random: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of one preprocessed image."""
        return (self.preprocessing.channels, *self.preprocessing.size)


def build_foreign(model: str, options: dict[str, Any]) -> Built:
    """Build `where:name`, float32, on the CPU, in evaluation mode.

    A user's factory gets `options` as keyword arguments. The attributes `preprocessing` (a `Preprocessing`) and
    `labels` (strings) of the factory, or else of the network it returns, are used; by default images are prepared as
    for ImageNet. Raises `UsageError` or `BackendMissing`.
    """
    where, _, name = model.partition(":")
    package = _PACKAGES.get(where)
    if package is not None:
        return package(name, options)
    factory = _find_factory(model, where, name)
    parameters = _check_arguments(model, factory, options)
    module = _call(model, partial(factory, **options))
    preprocessing = _declared_preprocessing(model, factory, module) or DEFINITIONS["resnet50"].preprocessing
    return Built(module, preprocessing, _declared_labels(model, factory, module), "num_classes" in parameters)


def _check_arguments(model: str, factory: Callable[..., object], options: Iterable[str]) -> list[str]:
    """The names that the factory's arguments have. Raises `UsageError` for an option that it does not take."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a class or function written in C
        return list(options)
    named = [item.name for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
    if not any(item.kind is item.VAR_KEYWORD for item in parameters):
        for option in options:
            if option not in named:
                raise UsageError.unknown(f"argument of {model}", option, named)
    return named


def _find_factory(model: str, where: str, name: str) -> Callable[..., object]:
    if not where or not name:
        raise UsageError(f"model {model!r}: expected package.module:factory")
    module = _import_users(model, where)
    try:
        factory: object = operator.attrgetter(name)(module)
    except AttributeError as error:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError.unknown(f"factory in {where}", name, public) from error
    if isinstance(factory, nn.Module) or not callable(factory):
        raise UsageError(f"{model}: expected a function that returns an nn.Module, found {type(factory).__name__}")
    return factory


def _import_users(model: str, where: str) -> ModuleType:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(where)
    except (Exception, SystemExit) as error:  # a script without a main guard may exit
        if isinstance(error, ModuleNotFoundError) and f"{where}.".startswith(f"{error.name}."):
            raise UsageError(
                f"model {model!r}: no module {error.name!r} here or installed; run beside it or install it"
            ) from error
        raise UsageError(f"{model}: importing {where} raised {type(error).__name__}: {error}") from error


def _call(model: str, factory: Callable[[], object]) -> nn.Module:
    torch.manual_seed(SEED)  # here, because importing the user's file may draw numbers too
    try:
        module = factory()
        module = getattr(module, "_orig_mod", module)  # unwrap torch.compile: the reference is eager
        if isinstance(module, torch.jit.ScriptModule):
            raise UsageError(f"{model}: found TorchScript, which can't be exported; return the module it was made from")
        if isinstance(module, nn.Module):
            return module.to("cpu", torch.float32).eval()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{model}: the factory raised {type(error).__name__}: {error}") from error
    raise UsageError(f"{model}: expected the factory to return an nn.Module, found {type(module).__name__}")


def _declared_preprocessing(model: str, *owners: object) -> Preprocessing | None:
    value = _declared("preprocessing", *owners)
    if value is None or isinstance(value, Preprocessing):
        return value
    raise UsageError(f"{model}: preprocessing: expected a Preprocessing, found {type(value).__name__}")


def _declared_labels(model: str, *owners: object) -> tuple[str, ...]:
    value = _declared("labels", *owners)
    if value is None:
        return ()
    if isinstance(value, (list, tuple)) and all(isinstance(label, str) for label in value):
        return tuple(value)
    raise UsageError(f"{model}: labels: expected a list of strings, found {type(value).__name__}")


def _declared(name: str, *owners: object) -> object:
    """The attribute `name` of the first owner that has it; None if no owner has it."""
    return next((getattr(owner, name) for owner in owners if hasattr(owner, name)), None)


def _import_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise BackendMissing(
                f"{name} needs {error.name}, which is not installed: pip install {error.name}"
            ) from error
        command = f"pip install {name} --extra-index-url {_CPU_WHEELS}"
        raise BackendMissing(f"models of {name} need that package, which is not installed: {command}") from error
    except Exception as error:  # a torchvision built for another torch: "operator torchvision::nms does not exist"
        raise BackendMissing(
            f"{name} is installed but cannot be imported beside torch {torch.__version__} ({error}); install the build "
            f"made for it: pip install --force-reinstall --no-deps torchvision --index-url {_CPU_WHEELS}"
        ) from error


def _build_torchvision(name: str, options: dict[str, Any]) -> Built:
    models = _import_package("torchvision").models
    _check_package_model("torchvision", name, models.list_models(), options)
    # segmentation and detection networks download weights unless `weights_backbone` is None
    parameters = inspect.signature(models.get_model_builder(name)).parameters
    none = {parameter: None for parameter in parameters if parameter.startswith("weights")}
    module = _call(f"torchvision:{name}", partial(models.get_model, name, **none, **options))
    return Built(module, DEFINITIONS["resnet50"].preprocessing, random=True)


def _build_timm(name: str, options: dict[str, Any]) -> Built:
    timm = _import_package("timm")
    _check_package_model("timm", name, timm.list_models(), options)
    module = _call(f"timm:{name}", partial(timm.create_model, name, pretrained=False, **options))
    config = timm.data.resolve_model_data_config(module)
    return Built(module, of_timm(f"timm:{name}", config), random=True)


def _check_package_model(package: str, name: str, known: Iterable[str], options: dict[str, Any]) -> None:
    if name.partition(".")[0] not in known:  # timm adds a dot and the recipe of the weights
        raise UsageError.unknown(f"{package} model", name, known)
    for option in options:
        if option != "num_classes":
            raise UsageError.unknown(f"option of {package}:{name}", option, ["num_classes"])


_PACKAGES: dict[str, Callable[[str, dict[str, Any]], Built]] = {
    "torchvision": _build_torchvision,
    "timm": _build_timm,
}
