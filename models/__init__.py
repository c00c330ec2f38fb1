"""The ResNet family: definitions, weights, key mappings, and the user's own networks."""

from resnetrt.parts import missing_part

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise missing_part("torch", "models", f"does not import ({error})") from error

from resnetrt.models.cost import Cost, LayerCost, cost
from resnetrt.models.definitions import DEFINITIONS, Definition, definition
from resnetrt.models.resnet import ResNet, ResNetConfig
from resnetrt.models.resolve import ResolvedModel, resolve
from resnetrt.models.weights import WeightsSource, load_weights

__all__ = [
    "DEFINITIONS",
    "Cost",
    "Definition",
    "LayerCost",
    "ResNet",
    "ResNetConfig",
    "ResolvedModel",
    "WeightsSource",
    "cost",
    "definition",
    "load_weights",
    "resolve",
]
