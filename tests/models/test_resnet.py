"""The template class: sizes, options, shortcuts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnetrt.errors import UsageError
from resnetrt.models import DEFINITIONS, ResNet, ResNetConfig, definition
from resnetrt.models.resnet import PadShortcut

PUBLISHED_PARAMETERS = {  # torchvision's documentation
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "wide_resnet50_2": 68_883_240,
}
TINY = ResNetConfig("bottleneck", 16, (1, 1), stem="small", num_classes=5)


def meta(name, **options):
    with torch.device("meta"):
        return definition(name, **options).build()


def tiny(**options):
    torch.manual_seed(0)
    return ResNet(ResNetConfig(**{**TINY.__dict__, **options})).eval()


def run(model, channels=3, side=16):
    with torch.no_grad():
        return model(torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED_PARAMETERS.items())
def test_parameters_are_the_published(name, parameters):
    assert sum(p.numel() for p in meta(name).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "millions"), [("cifar_resnet20", 0.27), ("cifar_resnet56", 0.85), ("cifar_resnet110", 1.7)]
)
def test_cifar_parameters_are_those_of_table_6_of_the_paper(name, millions):
    count = sum(p.numel() for p in meta(name).parameters()) / 1e6
    assert round(count, 2 if millions < 1 else 1) == millions


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_definition_maps_its_input_to_logits(name):
    entry = DEFINITIONS[name]
    with torch.device("meta"):
        logits = entry.build()(torch.empty(3, *entry.input_shape))
    assert logits.shape == (3, entry.config.num_classes)
    assert not entry.labels or len(entry.labels) == entry.config.num_classes
    assert entry.preprocessing.channels == entry.config.in_channels


@pytest.mark.parametrize("name", ["resnet18", "plain18", "cifar_resnet20", "fashion_resnet20"])
def test_a_real_forward_is_finite(name):
    entry = DEFINITIONS[name]
    with torch.no_grad():
        logits = entry.build()(torch.randn(2, entry.config.in_channels, 64, 64))
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", DEFINITIONS)
def test_depth_is_the_number_in_the_name_and_of_weighted_layers(name):
    network = meta(name)
    weighted = [
        layer
        for path, layer in network.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and ".shortcut." not in path
    ]
    assert len(weighted) == network.config.depth
    assert str(network.config.depth) in name


@pytest.mark.parametrize(("block", "per_block"), [("basic", 2), ("bottleneck", 3)])
def test_depth_formula(block, per_block):
    assert ResNetConfig(block, 16, (2, 5, 7)).depth == per_block * (2 + 5 + 7) + 2


def test_cifar_depth_is_6n_plus_2():
    assert [ResNetConfig("basic", 16, (n, n, n)).depth for n in (3, 5, 7, 9, 18)] == [20, 32, 44, 56, 110]


def test_stages_halve_the_size_and_double_the_filters():
    network, sizes = meta("resnet50"), []
    for stage in network.stages:
        stage.register_forward_hook(lambda *call: sizes.append(tuple(call[2].shape[1:])))
    network(torch.empty(1, 3, 224, 224, device="meta"))
    assert sizes == [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]


def test_convolutions_have_no_bias_and_a_batchnorm_follows_each():
    for network in (meta("resnet50"), meta("cifar_resnet20")):
        layers = list(network.modules())
        convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
        assert all(layers[i].bias is None for i in convolutions)
        assert all(isinstance(layers[i + 1], nn.BatchNorm2d) for i in convolutions)


def test_pad_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides():
    x = torch.arange(2 * 3 * 5 * 5, dtype=torch.float32).reshape(2, 3, 5, 5)
    out = PadShortcut(3, 8, 2)(x)
    assert out.shape == (2, 8, 3, 3)
    assert torch.equal(out[:, 2:5], x[:, :, ::2, ::2])  # five new channels: two before, three after
    assert not out[:, :2].any()
    assert not out[:, 5:].any()


def test_pad_shortcut_equals_the_reference_implementation():
    x = torch.randn(2, 16, 8, 8)  # akamaster's LambdaLayer: planes // 4 zeros on both sides
    reference = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 32 // 4, 32 // 4), "constant", 0)
    assert torch.equal(PadShortcut(16, 32, 2)(x), reference)


def test_addition_comes_before_the_last_relu():
    block = tiny(block="basic", blocks=(1,)).stages[0][0]
    nn.init.constant_(block.conv2.bn.bias, -100.0)
    x = torch.rand(1, 16, 4, 4)
    with torch.no_grad():
        assert not block(x).any()  # negative sum is cut off: a ReLU before the addition would return x


def test_shortcut_kinds_compute_differently():
    names = {kind: set(tiny(shortcut=kind).state_dict()) for kind in ("projection", "pad", "none")}
    assert names["pad"] == names["none"] < names["projection"]
    outputs = {kind: run(tiny(shortcut=kind)) for kind in names}
    assert not torch.allclose(outputs["pad"], outputs["none"])
    assert not torch.allclose(outputs["pad"], outputs["projection"])


def test_stem_for_large_images_reduces_by_four():
    def sizes(stem):
        seen = []
        network = tiny(stem=stem)
        network.stages.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2:]))
        run(network, side=32)
        return tuple(seen[0])

    assert sizes("imagenet") == (8, 8)
    assert sizes("small") == (32, 32)


def test_stride_moves_into_the_first_1x1():
    def strides(first):
        block = tiny(stride_in_1x1=first).stages[1][0]
        return block.conv1.conv.stride[0], block.conv2.conv.stride[0]

    assert strides(True) == (2, 1)
    assert strides(False) == (1, 2)
    v1, v15 = tiny(stride_in_1x1=True), tiny(stride_in_1x1=False)
    v1.load_state_dict(v15.state_dict())
    assert not torch.allclose(run(v1), run(v15))


def test_width_and_groups_shape_the_3x3():
    assert tiny(width=128).stages[0][0].conv2.conv.weight.shape == (32, 32, 3, 3)
    assert tiny(width=16, groups=8).stages[0][0].conv2.conv.weight.shape == (32, 4, 3, 3)


def test_classes_and_channels():
    assert run(tiny(num_classes=7, in_channels=4), channels=4).shape == (2, 7)


def test_init_modes_scale_by_fan_in_or_fan_out():
    weights = {mode: tiny(init_mode=mode).stages[1][0].conv3.conv.weight for mode in ("fan_in", "fan_out")}
    inputs, outputs = weights["fan_in"].shape[1], weights["fan_in"].shape[0]
    assert weights["fan_in"].std().item() == pytest.approx((2 / inputs) ** 0.5, rel=0.1)
    assert weights["fan_out"].std().item() == pytest.approx((2 / outputs) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "dense"}, "block: expected one of .*'basic', 'bottleneck'.*found 'dense'"),
        ({"shortcut": "conv"}, "shortcut: expected projection, pad or none, found 'conv'"),
        ({"stem": "big"}, "stem: expected imagenet or small"),
        ({"init_mode": "fan"}, "init_mode: expected fan_in or fan_out"),
        ({"block": "basic", "groups": 2}, "need block='bottleneck'"),
        ({"num_classes": 0}, "num_classes: expected an integer of at least 1, found 0"),
        ({"num_classes": "10"}, "num_classes: expected an integer of at least 1, found '10'"),
        ({"blocks": ()}, "blocks: expected an integer of at least 1"),
        ({"width": 1}, "width: expected at least 4, found 1"),
    ],
)
def test_wrong_configurations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_unknown_model_suggests_the_nearest():
    with pytest.raises(UsageError, match="unknown model 'resnet5'; did you mean resnet50"):
        definition("resnet5")


def test_unknown_option_suggests_the_nearest():
    with pytest.raises(UsageError, match="unknown option of model resnet18 'num_class'; did you mean num_classes"):
        definition("resnet18", num_class=10)


def test_wrong_option_names_the_model():
    with pytest.raises(UsageError, match="model resnet18: groups, width and stride_in_1x1 need"):
        definition("resnet18", width=128)


def test_options_equal_to_the_defaults_keep_the_shipped_weights():
    assert definition("fashion_resnet20", num_classes=10) is DEFINITIONS["fashion_resnet20"]
    changed = definition("fashion_resnet20", num_classes=3)
    assert (changed.pretrained, changed.labels) == (None, ())


def test_channels_change_the_preprocessing_too():
    grey = definition("cifar_resnet20", in_channels=1)
    assert grey.input_shape == (1, 32, 32)
    assert (grey.preprocessing.mode, len(grey.preprocessing.mean)) == ("L", 1)
    assert grey.labels == DEFINITIONS["cifar_resnet20"].labels
    assert definition("fashion_resnet20", in_channels=3).preprocessing.mean == (0.2860,) * 3
    with pytest.raises(UsageError, match=r"in_channels: expected 1 \(grey images\) or 3 \(RGB\), found 4"):
        definition("resnet18", in_channels=4)
