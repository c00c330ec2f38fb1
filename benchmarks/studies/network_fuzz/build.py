"""From a spec to an eager network with weights and statistics, and to its images; equal specs give equal results."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetrt.benchmarks.studies.network_fuzz.blocks import Passes, build_any
from resnetrt.benchmarks.studies.network_fuzz.layers import Do, Shape
from resnetrt.benchmarks.studies.network_fuzz.maps import Remembers
from resnetrt.benchmarks.studies.network_fuzz.spec import Layer, NetworkSpec
from resnetrt.preprocess import Preprocessing, UInt8Array

MEAN, STD = {"RGB": (0.5, 0.45, 0.4), "L": (0.45,)}, {"RGB": (0.25, 0.22, 0.27), "L": (0.25,)}
_MOST_CHANNELS, _MOST_VALUES, _MOST_FEATURES = 64, 40_000, 2_048
_LOUDEST = 1e3  # largest magnitude of a logit


class Unbuildable(ValueError):
    """The spec describes no network, or a meaningless one; the message says why."""


def build_network(spec: NetworkSpec) -> nn.Module:
    """The network in evaluation mode. Raises `Unbuildable`."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(spec.seed)
        shape: Shape = (len(MEAN[spec.mode]), *spec.size)
        body, features = _chain(list(spec.layers), shape)
        head = build_head(features, **spec.head)
        network = _laid_out(body, head, spec.layout).eval()
        _randomize(network)
        _settle(network, spec)
    _check_alive(network, spec)
    return network


def preprocessing_of(spec: NetworkSpec) -> Preprocessing:
    """The preprocessing in front of the network."""
    return Preprocessing(spec.mode, max(spec.size), spec.size, MEAN[spec.mode], STD[spec.mode])


def images_of(spec: NetworkSpec, count: int, purpose: int) -> UInt8Array:
    """`count` smooth, colourful frames uint8 `(n, H, W, C)` with some grain; each `purpose` gets different ones."""
    rng = np.random.default_rng([spec.seed, purpose])
    channels = len(MEAN[spec.mode])
    coarse = torch.from_numpy(rng.normal(size=(count, channels, 5, 5)).astype(np.float32))
    smooth = F.interpolate(coarse, size=spec.size, mode="bicubic").numpy().transpose(0, 2, 3, 1)
    grain = rng.normal(size=smooth.shape) * 0.15
    level, contrast = rng.normal(size=(count, 1, 1, channels)) * 0.4, rng.uniform(0.3, 1.5, (count, 1, 1, 1))
    pixels = 127 + 70 * (level + contrast * (smooth + grain))
    return np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8))


def normalized(spec: NetworkSpec, frames: UInt8Array) -> Tensor:
    """The normalised frames for the network, float64, computed independently of the product."""
    x = torch.from_numpy(frames.astype(np.float64)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values[spec.mode], dtype=torch.float64)[:, None, None] for values in (MEAN, STD))
    return ((x - mean) / std).contiguous()


def shape_after(layers: list[Layer], shape: Shape) -> Shape:
    """The shape that `layers` make of a map `(C, H, W)`. Raises `Unbuildable`."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        return _chain(layers, shape)[1]


def _chain(layers: list[Layer], shape: Shape) -> tuple[nn.Sequential, Shape]:
    """The layers in sequence, each built for the output shape of the one before, and the final shape."""
    built = nn.Sequential()
    for layer in layers:
        try:
            module = build_any(layer, shape, _chain).eval()
            out = module(torch.rand(2, *shape))
        except Unbuildable:
            raise
        except Exception as error:
            raise Unbuildable(f"{layer['op']} on {shape}: {' '.join(str(error).split())[:200]}") from error
        if out.ndim != 4 or len(out) != 2 or min(out.shape) < 1:
            raise Unbuildable(f"{layer['op']} on {shape} gives {tuple(out.shape)}")
        if out.shape[1] > _MOST_CHANNELS or out[0].numel() > _MOST_VALUES:
            raise Unbuildable(f"{layer['op']} on {shape} gives {tuple(out.shape)}, too large")
        built.append(module)
        shape = (int(out.shape[1]), int(out.shape[2]), int(out.shape[3]))
    return built, shape


def build_head(
    shape: Shape, kind: str = "pool", classes: int = 6, hidden: int = 0, norm: bool = False, last: str = "none"
) -> nn.Module:
    """From a map to logits: `pool`, `flatten`, `conv`, `max`, `both` (mean and max), `sum`; `last` on logits."""
    channels, height, width = shape
    pooled: dict[str, Callable[[], nn.Module]] = {
        "pool": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "mean": lambda: Do(lambda x: x.mean((2, 3))),
        "flatten": nn.Flatten,
        "view": lambda: Do(lambda x: x.contiguous().view(x.size(0), -1)),
        "max": lambda: Do(lambda x: x.amax((2, 3))),
        "both": lambda: Do(lambda x: torch.cat([x.mean((2, 3)), x.flatten(2).max(2).values], 1)),
        "generalized": lambda: Do(lambda x: x.clamp(min=1e-3).pow(3).mean((2, 3)).pow(1 / 3)),
        "window": lambda: nn.Sequential(nn.AvgPool2d((height, width)), nn.Flatten()),
    }
    if kind == "conv":
        last_conv = nn.Conv2d(channels, classes, 1)
        layers: list[nn.Module] = [last_conv, nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    else:
        width_in = {"flatten": channels * height * width, "view": channels * height * width, "both": 2 * channels}
        features = width_in.get(kind, channels)
        if features > _MOST_FEATURES:
            raise Unbuildable(f"{features} features are too many for a head")
        layers = [pooled[kind]()]
        if hidden:
            layers += [nn.Linear(features, hidden), *([nn.BatchNorm1d(hidden)] if norm else []), nn.ReLU()]
        layers.append(nn.Linear(hidden or features, classes))
    ends: dict[str, Callable[[Tensor], Tensor]] = {
        "log_softmax": lambda x: F.log_softmax(x, 1),
        "softmax": lambda x: torch.softmax(x, -1),
        "scaled": lambda x: 3.0 * x,
    }
    return nn.Sequential(*layers, *([Do(ends[last])] if last != "none" else []))


class Flat(nn.Module):
    """The layers as attributes of the root, torchvision's way."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self._order = []
        for index, layer in enumerate(layers):
            name = f"{type(layer).__name__.lower()}{index}"
            self.add_module(name, layer)
            self._order.append(name)

    def forward(self, x: Tensor) -> Tensor:
        for name in self._order:
            x = getattr(self, name)(x)
        return x


class Aliased(nn.Module):
    """The layers have several names, and are called by the later names with a keyword argument."""

    def __init__(self, body: nn.Sequential, head: nn.Module) -> None:
        super().__init__()
        self.features = body
        self.classifier = head
        self.backbone = nn.ModuleDict({"body": body, "unused": nn.Conv2d(3, 3, 1)})

    def forward(self, x: Tensor) -> Any:
        return self.classifier(self.backbone["body"](input=x))


LAYOUTS = ("nested", "flat", "wrapped", "aliased", "sequential", "attribute")


def _laid_out(body: nn.Sequential, head: nn.Module, layout: str) -> nn.Module:
    if layout == "flat":
        return Flat([*body, *(head if isinstance(head, nn.Sequential) else [head])])
    if layout == "sequential":
        return nn.Sequential(*body, *(head if isinstance(head, nn.Sequential) else [head]))
    if layout == "aliased":
        return Aliased(body, head)
    network = nn.Sequential(body, head)
    if layout == "attribute":  # a plain list beside the modules, a number, a name
        network.num_classes, network.notes = 6, ["not", "a", "module"]  # type: ignore[assignment]
    return Passes(network) if layout == "wrapped" else network


def _randomize(network: nn.Module) -> None:
    """Give parameters values as after some training: none keeps its plain initialisation."""
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            parameter.add_(0.15 * torch.randn_like(parameter))
        elif name.endswith(("original0", "weight_g")):
            parameter.mul_(1 + 0.2 * torch.rand_like(parameter))


def _settle(network: nn.Module, spec: NetworkSpec) -> None:
    """Give every norm with running statistics those of real images at this layer, then disturb them."""
    hook = _statistics_of(spec.statistics)
    hooks = [
        module.register_forward_pre_hook(hook, with_kwargs=True)
        for module in network.modules()
        if isinstance(getattr(module, "running_mean", None), Tensor)
    ]
    try:
        network(normalized(spec, images_of(spec, 16, 0)).float())
    except Exception as error:
        raise Unbuildable(f"settling: {' '.join(str(error).split())[:200]}") from error
    finally:
        for handle in hooks:
            handle.remove()
    _forget(network)


def _forget(network: nn.Module) -> None:
    """Reset the module to a state as if it had never been called."""
    for module in network.modules():
        if isinstance(module, Remembers):
            module.table = None


def _statistics_of(kind: str) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...], options: dict[str, Tensor]) -> None:
        x = args[0] if args else options["input"]
        axes = [axis for axis in range(x.ndim) if axis != 1]
        mean, variance = x.mean(axes), x.var(axes, unbiased=False) + 1e-3
        mean, variance = mean + 0.2 * variance.sqrt() * torch.randn_like(mean), variance * (0.6 + torch.rand_like(mean))
        weight = getattr(module, "weight", None)
        if kind == "odd" and len(mean) > 3:
            mean[3] += 3 * variance[3].sqrt()
            variance[2] *= 100
            if weight is not None:
                weight[0], weight[1] = 0.0, -weight[1].abs()
        if kind == "spread" and weight is not None:
            weight.copy_(torch.logspace(-1.5, 0.5, len(weight))[torch.randperm(len(weight))])
        module.running_mean.copy_(mean)  # type: ignore[operator]
        module.running_var.copy_(variance)  # type: ignore[operator]

    return hook


@torch.no_grad()
def _check_alive(network: nn.Module, spec: NetworkSpec) -> None:
    """Logits must be finite, of a sane size, and say something about the image."""
    logits = network(normalized(spec, images_of(spec, 16, 0)).float()).double()
    _forget(network)
    if logits.ndim != 2 or not torch.isfinite(logits).all() or logits.abs().max() > _LOUDEST:
        raise Unbuildable("its logits are no sane numbers")
    if (logits - logits.mean(0)).norm() < 0.02 * logits.norm() or logits.norm() < 1e-2:
        raise Unbuildable("its logits hardly depend on the image")
