"""The registered networks: one configuration dictionary, one function that builds from it."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from resnetrt.errors import UsageError
from resnetrt.models.resnet import ResNet, ResNetConfig
from resnetrt.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

FASHION_LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Definition:
    """A named architecture: its configuration, input and preprocessing, and class labels where they are fixed.

    `pretrained` is the file of weights shipped inside the package, if any; `options` are the fields that `definition()`
    changed.
    """

    name: str
    config: ResNetConfig
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    pretrained: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of one preprocessed image."""
        return (self.config.in_channels, *self.preprocessing.size)

    def build(self) -> ResNet:
        """A randomly initialised network in evaluation mode."""
        return ResNet(self.config).eval()


_IMAGENET = Preprocessing(mode="RGB", resize=256, size=(224, 224), mean=IMAGENET_MEAN, std=IMAGENET_STD)
_CIFAR = Preprocessing(mode="RGB", resize=32, size=(32, 32), mean=IMAGENET_MEAN, std=IMAGENET_STD)
_FASHION = Preprocessing(mode="L", resize=28, size=(28, 28), mean=(0.2860,), std=(0.3530,))

# name: (block kind, filters of the first stage, blocks per stage, options)
_IMAGENET_NETWORKS: dict[str, tuple[str, int, tuple[int, ...], dict[str, Any]]] = {
    "resnet18": ("basic", 64, (2, 2, 2, 2), {}),
    "resnet34": ("basic", 64, (3, 4, 6, 3), {}),
    "resnet50": ("bottleneck", 64, (3, 4, 6, 3), {}),
    "resnet101": ("bottleneck", 64, (3, 4, 23, 3), {}),
    "resnet152": ("bottleneck", 64, (3, 8, 36, 3), {}),
    "resnext50_32x4d": ("bottleneck", 64, (3, 4, 6, 3), {"groups": 32, "width": 4}),
    "wide_resnet50_2": ("bottleneck", 64, (3, 4, 6, 3), {"width": 128}),
    "plain18": ("basic", 64, (2, 2, 2, 2), {"shortcut": "none"}),
    "plain34": ("basic", 64, (3, 4, 6, 3), {"shortcut": "none"}),
}
_SMALL: dict[str, Any] = {"stem": "small", "num_classes": 10}


def _definitions() -> dict[str, Definition]:
    definitions = {}
    for name, (block, filters, blocks, options) in _IMAGENET_NETWORKS.items():
        config = ResNetConfig(block, filters, blocks, **options)  # type: ignore[arg-type]
        definitions[name] = Definition(name, config, _IMAGENET)
    for depth in (20, 32, 44, 56, 110):  # 6n+2 layers, section 4.2 of the paper
        name = f"cifar_resnet{depth}"
        config = ResNetConfig("basic", 16, ((depth - 2) // 6,) * 3, shortcut="pad", **_SMALL)
        definitions[name] = Definition(name, config, _CIFAR, CIFAR10_LABELS)
    config = ResNetConfig("basic", 16, (3, 3, 3), in_channels=1, **_SMALL)
    pretrained = "fashion_resnet20.safetensors"
    definitions["fashion_resnet20"] = Definition("fashion_resnet20", config, _FASHION, FASHION_LABELS, pretrained)
    return definitions


#: every named architecture, by name
DEFINITIONS: dict[str, Definition] = _definitions()


def definition(name: str, **options: Any) -> Definition:
    """The definition `name` with `options` (fields of `ResNetConfig`, for example `num_classes=10`) changed.

    Class labels are kept if the number of classes is unchanged, shipped weights only if nothing changes.
    Raises `UsageError` for an unknown name or option, naming the nearest known ones.
    """
    base = DEFINITIONS.get(name)
    if base is None:
        raise UsageError.unknown("model", name, DEFINITIONS)
    known = [f.name for f in fields(ResNetConfig)]
    for option in options:
        if option not in known:
            raise UsageError.unknown(f"option of model {name}", option, known)
    try:
        config = replace(base.config, **options)
    except ValueError as error:
        raise UsageError(f"model {name}: {error}") from error
    if config == base.config:
        return base
    preprocessing = _with_channels(base.preprocessing, config.in_channels)
    labels = base.labels if config.num_classes == base.config.num_classes else ()
    return Definition(name, config, preprocessing, labels, options=options)


def _with_channels(preprocessing: Preprocessing, channels: int) -> Preprocessing:
    """The preprocessing for images of 1 (grey) or 3 (RGB) channels; mean and std are averaged over the old channels."""
    if channels == preprocessing.channels:
        return preprocessing
    if channels not in (1, 3):
        raise UsageError(f"in_channels: expected 1 (grey images) or 3 (RGB), found {channels}")
    mean, std = (sum(values) / len(values) for values in (preprocessing.mean, preprocessing.std))
    return replace(preprocessing, mode="L" if channels == 1 else "RGB", mean=(mean,) * channels, std=(std,) * channels)
