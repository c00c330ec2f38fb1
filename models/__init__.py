"""The ResNet family: definitions, weights, key mappings, and the user's own networks."""

from resnetrt.errors import BackendMissing

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise BackendMissing(
        f"models need torch, which cannot be imported ({error}): pip install 'resnetrt[torch]'"
    ) from error

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
