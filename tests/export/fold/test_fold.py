"""Folding against eager in float64, what is kept and why, and what the certificate notices."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import small_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import ActivatedBatchNorm, Chain, StandardizedConv, randomize
from torch import Tensor, nn

from resnetrt.errors import CheckFailed
from resnetrt.export.fold import fold as module
from resnetrt.export.fold.fold import MAX_RELATIVE_ERROR, FoldResult, fold_batch_norms, folded_parameters

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@torch.no_grad()
def difference(first: nn.Module, second: nn.Module, images: Tensor = IMAGES) -> float:
    """Largest difference of the outputs over the largest output."""
    one, two = first(images), second(images)
    return float((one - two).abs().max() / one.abs().max())


def norms_left(result: FoldResult) -> list[str]:
    """Names of the BatchNorm calls of the folded program."""
    return [node.name for node in result.program.graph.nodes if "norm" in str(node.target)]


def small_net() -> nn.Module:
    return randomize(Chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))


magnitudes = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)


@given(
    dimensions=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from([1, 2]),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    kernel=st.integers(1, 3),
    bias=st.booleans(),
    affine=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-3, 1e-12]),
    variance=magnitudes,
    mean=magnitudes,
    gamma=magnitudes,
    seed=st.integers(0, 2**32 - 1),
)
def test_folded_convolution_equals_eager_in_float64(
    dimensions: int,
    groups: int,
    inputs: int,
    outputs: int,
    kernel: int,
    bias: bool,
    affine: bool,
    eps: float,
    variance: float,
    mean: float,
    gamma: float,
    seed: int,
):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    conv = CONVS[dimensions](inputs * groups, outputs * groups, kernel, groups=groups, bias=bias).double()
    batch_norm = BATCH_NORMS[dimensions](outputs * groups, eps=eps, affine=affine).double().eval()
    with torch.no_grad():
        conv.weight.copy_(random(*conv.weight.shape))
        batch_norm.running_mean.copy_(mean * random(outputs * groups))
        batch_norm.running_var.copy_(variance * random(outputs * groups).abs())
        if affine:
            batch_norm.weight.copy_(gamma * random(outputs * groups))
            batch_norm.bias.copy_(mean * random(outputs * groups))
        x = random(2, inputs * groups, *[4] * dimensions)
        expected = batch_norm(conv(x))
        weight, shift = folded_parameters(conv, batch_norm)
        folded = copy.deepcopy(conv)
        folded.weight, folded.bias = nn.Parameter(weight), nn.Parameter(shift)
        error = (folded(x) - expected).abs().transpose(0, 1).flatten(1).amax(1)
        # what either order of the operations may round: every term of s (Wx + b - mean) + beta
        scale = (batch_norm.weight if affine else torch.ones(())) / (batch_norm.running_var + eps).sqrt()
        terms = conv(x).abs().transpose(0, 1).flatten(1).amax(1) + conv.weight.abs().flatten(1).sum(1) * x.abs().max()
        terms = (terms + batch_norm.running_mean.abs()) * scale.abs()
        terms += batch_norm.bias.abs() if affine else 0
    assert (error <= 1e-13 * terms).all()


@pytest.mark.parametrize(
    ("dimensions", "options"),
    [
        (1, {}),
        (2, {}),
        (3, {}),
        (2, {"bias": False}),
        (2, {"groups": 2}),
        (2, {"stride": 2, "padding": 1, "dilation": 2}),
        (2, {"padding": "same"}),
        (2, {"padding": 1, "padding_mode": "reflect"}),
        (1, {"padding": "valid", "groups": 2, "bias": False}),
    ],
)
def test_every_kind_of_convolution_folds(dimensions: int, options: dict[str, object]):
    norm = BATCH_NORMS[dimensions](6, affine=bool(options))
    net = randomize(Chain(CONVS[dimensions](4, 6, 3, **options), norm, nn.ReLU()))
    images = torch.randn(4, 4, *[8] * dimensions)
    result = fold_batch_norms(net, images)
    assert [(c.conv, c.batch_norm) for c in result.certificates] == [("layers.0", "layers.1")]
    assert result.kept == []
    assert norms_left(result) == []
    assert difference(net, result.program.module(), images) < MAX_RELATIVE_ERROR


def test_the_batch_norm_of_distributed_training_folds():
    """In evaluation mode it is a plain one; the exporter would fold it without a certificate."""
    net = nn.SyncBatchNorm.convert_sync_batchnorm(small_net())
    result = fold_batch_norms(net, IMAGES)
    assert [c.batch_norm for c in result.certificates] == ["layers.1"]
    assert result.kept == []
    assert difference(net, result.program.module()) < MAX_RELATIVE_ERROR


@pytest.mark.parametrize("kind", small_models.CONFIGS)
def test_residual_networks_fold_completely(kind: str):
    net, images = small_models.build(kind), small_models.pictures(kind, 4)
    result = fold_batch_norms(net, images)
    norms = [name for name, child in net.named_modules() if isinstance(child, nn.BatchNorm2d)]
    assert sorted(c.batch_norm for c in result.certificates) == sorted(norms)
    assert [c.conv.replace(".conv", ".bn") for c in result.certificates if c.conv.endswith("0.conv1.conv")]
    assert result.kept == []
    assert norms_left(result) == []
    assert difference(net, result.program.module(), images) < MAX_RELATIVE_ERROR


KEPT = {
    "before the convolution": (
        lambda: Chain(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
        ("layers.0", "its input comes from .*not from a convolution"),
    ),
    "behind a ReLU": (
        lambda: Chain(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        ("layers.2", "its input comes from aten.relu.default, not from a convolution"),
    ),
    "behind a transposed convolution": (
        lambda: Chain(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)),
        ("layers.1", "its input comes from aten.conv_transpose2d"),
    ),
    "output used twice": (small_models.ConvUsedTwice, ("bn", "output of the convolution before it has 2 users")),
    "shared convolution": (small_models.SharedConv, ("bn", "the convolution conv before it is used more than once")),
    "tied weights": (small_models.TiedWeights, ("bn", "the convolution conv[12] before it is used more than once")),
    "shared BatchNorm": (small_models.SharedBatchNorm, ("bn", "it is used more than once")),
    "no statistics": (
        lambda: Chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        ("batch_norm", "it has no running statistics, so it depends on the batch"),
    ),
    "computed from the image": (
        small_models.ScaledByImage,
        ("bn", "its parameters are computed from the image"),
    ),
}


class TimmBatchNorm(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: forward is written out, with dropout and activation behind."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        x = nn.functional.batch_norm(x, *statistics, self.weight, self.bias, self.training, 0.1, self.eps)
        return self.act(self.drop(x))


class FrozenBatchNorm(nn.Module):
    """As detection frameworks have it: no parameters, no `nn.BatchNorm2d`, only buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, 0.5 + torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


FOLDED: dict[str, tuple[Callable[[], nn.Module], tuple[str, str]]] = {
    "BatchNorm with a ReLU inside": (
        lambda: Chain(nn.Conv2d(3, 4, 3), ActivatedBatchNorm(4)),
        ("layers.0", "layers.1"),
    ),
    "BatchNorm of timm": (
        lambda: Chain(nn.Conv2d(3, 4, 3, bias=False), TimmBatchNorm(4)),
        ("layers.0", "layers.1"),
    ),
    "frozen BatchNorm": (lambda: Chain(nn.Conv2d(3, 4, 3), FrozenBatchNorm(4)), ("layers.0", "layers.1")),
    "InstanceNorm with running statistics": (
        lambda: Chain(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
        ("layers.0", "layers.1"),
    ),
    "weight standardization": (
        lambda: Chain(StandardizedConv(3, 4, 3), nn.BatchNorm2d(4)),
        ("layers.0", "layers.1"),
    ),
    "weight norm": (
        lambda: Chain(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)),
        ("layers.0", "layers.1"),
    ),
    "functional convolution": (small_models.FunctionalConv, ("conv", "bn")),
    "functional BatchNorm": (small_models.FunctionalBatchNorm, ("conv", "bn")),
}


@pytest.mark.parametrize("case", FOLDED)
def test_calls_are_folded_whatever_module_they_come_from(case: str):
    make, names = FOLDED[case]
    net = randomize(make())
    result = fold_batch_norms(net, IMAGES)
    assert [(item.conv, item.batch_norm) for item in result.certificates] == [names]
    assert (result.kept, norms_left(result)) == ([], [])
    assert difference(net, result.program.module()) < MAX_RELATIVE_ERROR


@pytest.mark.parametrize("case", KEPT)
def test_what_can_not_be_folded_is_kept_and_reported(case: str):
    make, (name, reason) = KEPT[case]
    net = randomize(make())
    result = fold_batch_norms(net, IMAGES)
    assert result.certificates == []
    assert {kept.batch_norm for kept in result.kept} == {name}
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(result.kept[0].reason)
    assert difference(net, result.program.module()) == 0
    assert result.to_json()["kept"][0] == {"batch_norm": name, "reason": result.kept[0].reason}


def test_one_is_folded_though_another_is_kept():
    net = randomize(small_models.PreActivation())
    result = fold_batch_norms(net, IMAGES)
    assert [(c.conv, c.batch_norm) for c in result.certificates] == [("conv1", "bn2")]
    assert [kept.batch_norm for kept in result.kept] == ["bn1"]
    assert difference(net, result.program.module()) < MAX_RELATIVE_ERROR


@pytest.mark.parametrize("make", [small_models.Aliases, small_models.LateAliases, small_models.Keywords])
def test_folds_whatever_the_layers_are_called(make: Callable[[], nn.Module]):
    net = randomize(make())
    result = fold_batch_norms(net, IMAGES)
    assert len(result.certificates) == 1
    assert norms_left(result) == []
    assert difference(net, result.program.module()) < MAX_RELATIVE_ERROR


def test_the_original_is_left_as_it_was():
    net = small_net()
    state = copy.deepcopy(net.state_dict())
    fold_batch_norms(net, IMAGES)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_a_network_in_training_mode_is_folded_as_in_evaluation():
    net = small_net()
    expected = fold_batch_norms(net, IMAGES).program.module()(IMAGES)
    torch.testing.assert_close(fold_batch_norms(net.train(), IMAGES).program.module()(IMAGES), expected, rtol=0, atol=0)


def wrong_scale(weight: Tensor, bias: Tensor, _conv: nn.Module, _norm: nn.Module) -> tuple[Tensor, Tensor]:
    return weight * (1 + 3e-5), bias


def without_mean(weight: Tensor, bias: Tensor, _conv: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    return weight, bias + norm.running_mean * module._scale(norm)


def without_eps(weight: Tensor, bias: Tensor, _conv: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    return weight * ((norm.running_var + norm.eps) / norm.running_var).sqrt().view(-1, 1, 1, 1), bias


def per_input(weight: Tensor, bias: Tensor, conv: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    return conv.weight * module._scale(norm).view(1, -1, 1, 1), bias


def not_a_number(weight: Tensor, bias: Tensor, _conv: nn.Module, _norm: nn.Module) -> tuple[Tensor, Tensor]:
    return weight * math.nan, bias


@pytest.mark.parametrize("fault", [wrong_scale, without_mean, without_eps, per_input, not_a_number])
def test_a_wrong_fold_is_refused(monkeypatch: pytest.MonkeyPatch, fault: Callable[..., tuple[Tensor, Tensor]]):
    net = randomize(Chain(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, eps=1e-3), nn.ReLU()))
    assert fold_batch_norms(net, IMAGES).certificates[0].max_relative_error <= MAX_RELATIVE_ERROR
    right = folded_parameters
    monkeypatch.setattr(module, "folded_parameters", lambda c, n: fault(*(p.detach() for p in right(c, n)), c, n))
    message = r"folding layers\.1 into layers\.0 changed its output by .* relative, expected at most 1e-05"
    with pytest.raises(CheckFailed, match=message):
        fold_batch_norms(net, IMAGES)


def test_certificate_by_hand():
    """Scales of a power of two are exact; then one output is moved by exactly 8 ulp of its channel's peak."""
    conv, norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3, eps=0.25)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:2, :, 2, 1] = 2.0**-10  # a channel's range is that of its largest weight
        conv.weight[:, :, 0, 0] = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
        conv.bias.zero_()
        norm.running_var.copy_(torch.tensor([0.0, 3.75, 0.2]))  # deviations 0.5, 2, ...
        norm.weight.copy_(torch.tensor([1.0, 1.0, 0.0]))
    result = fold_batch_norms(Chain(conv, norm).eval(), IMAGES)
    (certificate,) = result.certificates
    assert certificate.max_relative_error == certificate.max_ulp == 0
    assert certificate.weight_range_ratio == 0.5  # 2 after, 4 before
    assert certificate.channel_spread == 2.0  # channels 2 and 1; the dead one does not count
    assert certificate.dead_channels == [2]
    assert certificate.tiny_variance_channels == [0, 2]
    weight = result.program.state_dict["layers.0.weight"][:, :, 0, 0].detach()
    torch.testing.assert_close(weight, torch.diag(torch.tensor([2.0, 1.0, 0.0])), rtol=0, atol=0)


@pytest.mark.parametrize(("ulps", "channel"), [(8, 0), (2, 1)])
def test_error_in_ulp_of_the_channels_peak(monkeypatch: pytest.MonkeyPatch, ulps: int, channel: int):
    conv, norm = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0.25)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[[1.0]], [[0.0]]], [[[0.0]], [[64.0]]]]))
        norm.running_var.fill_(0.75)  # deviation 1
    right = folded_parameters

    def moved(c: nn.Module, n: nn.Module) -> tuple[Tensor, Tensor]:
        weight, bias = right(c, n)
        bias[channel] += ulps * float(np.spacing(np.float32([1.5, 96.0][channel])))
        return weight, bias

    monkeypatch.setattr(module, "folded_parameters", moved)
    (certificate,) = fold_batch_norms(Chain(conv, norm).eval(), torch.full((2, 2, 1, 1), 1.5)).certificates
    assert certificate.max_ulp == ulps
    assert certificate.max_relative_error == pytest.approx(ulps * np.spacing(np.float32([1.5, 96.0][channel])) / 96)


def test_variance_smaller_than_eps_and_dead_channels_are_reported_in_a_deep_network():
    net = small_models.build("projection")
    norm = net.get_submodule("stages.0.1.conv2.bn")
    norm.running_var[1] = 1e-9
    norm.weight.data[2] = 0
    result = fold_batch_norms(net, small_models.pictures("projection", 4))
    certificates = {c.batch_norm: c for c in result.certificates}
    assert certificates["stages.0.1.conv2.bn"].tiny_variance_channels == [1]
    assert certificates["stages.0.1.conv2.bn"].dead_channels == [2]
    assert not certificates["stem.bn"].dead_channels + certificates["stem.bn"].tiny_variance_channels
    assert certificates["stages.0.1.conv2.bn"].channel_spread > 50 * certificates["stem.bn"].channel_spread


def test_json_of_the_certificates():
    result = fold_batch_norms(small_models.build("pad"), small_models.pictures("pad", 4))
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert record["folded"] == len(record["convolutions"]) == len(result.certificates) == 7
    worst = max(c["max_relative_error"] for c in record["convolutions"])
    assert record["max_relative_error"] == worst
    assert 0 < worst < MAX_RELATIVE_ERROR
    assert record["kept"] == []


def test_json_with_nothing_to_fold():
    result = fold_batch_norms(Chain(nn.Conv2d(3, 4, 3)).eval(), IMAGES)
    assert result.to_json() == {"folded": 0, "max_relative_error": 0.0, "convolutions": [], "kept": []}


def test_dead_convolution_does_not_divide_by_zero():
    net = small_net()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    (certificate,) = fold_batch_norms(net, IMAGES).certificates
    assert all(
        math.isfinite(value)
        for value in (certificate.max_relative_error, certificate.max_ulp, certificate.channel_spread)
    )
    assert replace(certificate, conv="x").weight_range_ratio == 0
