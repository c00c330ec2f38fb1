"""Eager as the reference: refused with its cause unless each image's logits depend on that image alone."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import randomize
from torch import Tensor, nn

from resnetrt.errors import CheckFailed, UsageError
from resnetrt.export.fp32.reference import eager_logits, reference_logits

IMAGES = torch.randn(11, 3, 8, 8, generator=torch.Generator().manual_seed(5))


class Net(nn.Module):
    """Logits by `head` from the averages of one convolution."""

    def __init__(self, head: Callable[[Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.conv, self.layers, self.fc = nn.Conv2d(3, 6, 3), nn.Sequential(*layers), nn.Linear(6, 5)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head(self.layers(self.conv(x)).mean((2, 3))))


class AlwaysTraining(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> nn.BatchNorm2d:
        return super().train(True)


class AlwaysDropping(nn.Dropout):
    def train(self, mode: bool = True) -> nn.Dropout:
        return super().train(True)


class SkipsNormOfOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(3, 5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x.mean((2, 3)))
        return F.relu(self.bn(y) if len(y) > 1 else y)


class Counts(nn.Module):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.mean((2, 3)) * self.calls


class AddsBatchSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((2, 3))
        return y if len(x) < 4 else y.exp()


class InPlace(Net):
    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.4).div_(0.3)
        return super().forward(x)


def same(y: Tensor) -> Tensor:
    return y


AGAIN = r"gives other logits when eager runs again on the same images \(max abs difference .*, SQNR .* dB\): "
ALONE = r"gives other logits for an image alone than in a batch \(max abs difference .*, SQNR .* dB\): "
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "functional dropout": (
        lambda: Net(lambda y: F.dropout(y, 0.3)),
        AGAIN + r"bernoulli_ in the network itself \(Net\) draws random numbers; switch dropout and noise off",
    ),
    "dropout in training mode": (
        lambda: Net(same, AlwaysDropping(0.3)),
        AGAIN + r"bernoulli_ in layers.0 \(AlwaysDropping\) draws random numbers",
    ),
    "noise": (lambda: Net(lambda y: y + torch.rand(y.shape)), AGAIN + "rand in the network itself"),
    "state": (Counts, AGAIN + r"mul in the network itself \(Counts\) differs first; it keeps state"),
    "BatchNorm in training mode": (
        lambda: Net(same, AlwaysTraining(6)),
        ALONE + r"BatchNorm layers.0 \(AlwaysTraining\) is in training mode although eval\(\) was called",
    ),
    "BatchNorm without statistics": (
        lambda: Net(same, nn.BatchNorm2d(6, track_running_stats=False)),
        ALONE + "BatchNorm layers.0 has no running statistics",
    ),
    "softmax over the batch": (
        lambda: Net(lambda y: F.softmax(y, 0)),
        ALONE + "_softmax in the network itself .* mixes the images of a batch",
    ),
    "softmax over a batch that is not the first axis": (
        lambda: Net(lambda y: F.softmax(y[None], 1)[0]),
        ALONE + "_softmax in the network itself",
    ),
    "normalised over the batch": (lambda: Net(lambda y: y - y.mean(0)), ALONE + "mean in the network itself"),
    "the first image is special": (lambda: Net(lambda y: y * y[:1]), ALONE + "mul in the network itself"),
    "other layers for one": (
        SkipsNormOfOne,
        ALONE + r"the batch size decides what it computes: native_batch_norm in bn \(BatchNorm1d\) for several images, "
        r"relu in the network itself \(SkipsNormOfOne\) for one",
    ),
    "one operation more for several": (AddsBatchSize, ALONE + "one of the runs calls exp in the network itself"),
    "one image only": (
        lambda: Net(lambda y: y.view(1, 6)),
        r"net takes one image at a time only: forward on \(8, 3, 8, 8\) raised RuntimeError: shape .* is invalid .*; "
        "make it work for any batch",
    ),
    "averages the batch": (
        lambda: Net(lambda y: y.mean(0, keepdim=True)),
        r"net takes one image at a time only: expected logits \(8, classes\) .* found \(1, 5\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_function_of_one_image_is_refused_with_its_cause(case: str):
    make, message = REFUSED[case]
    with pytest.raises(CheckFailed, match=message):
        reference_logits(randomize(make()), IMAGES, "net")


WRONG_OUTPUTS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "class numbers": (lambda y: y.argmax(1, keepdim=True), r"found int64 \(1, 1\); class numbers and masks are no log"),
    "top five": (lambda y: y.topk(5).indices, r"found int64 \(1, 5\)"),
    "mask": (lambda y: y > 0, r"found bool \(1, 5\)"),
    "half": (lambda y: y.half(), r"found float16 \(1, 5\); compute in float32"),
    "tuple": (lambda y: (y, y), "found tuple; return the logits only"),
    "dictionary": (lambda y: {"logits": y}, "found dict; return the logits only"),
    "one image without batch": (lambda y: y[0], r"found \(5,\); return the logits only"),
}


@pytest.mark.parametrize("case", WRONG_OUTPUTS)
def test_outputs_that_are_no_logits_are_refused(case: str):
    output, message = WRONG_OUTPUTS[case]
    net = randomize(Net(same))
    net.fc.register_forward_hook(lambda _layer, _args, y: output(y))
    with pytest.raises(UsageError, match=rf"net: expected logits \(1, classes\) from \(1, 3, 8, 8\), {message}"):
        reference_logits(net, IMAGES, "net")


@pytest.mark.parametrize("make", [lambda: InPlace(same), lambda: Net(same, nn.Dropout(0.5), nn.InstanceNorm2d(6))])
def test_sound_networks_pass_and_the_images_stay(make: Callable[[], nn.Module]):
    net, images = randomize(make()), IMAGES.clone()
    logits, noise = reference_logits(net, images, "net")
    assert 0 < noise < 1e-5
    with torch.no_grad():
        expected = torch.cat([net(image[None].clone()) for image in IMAGES])
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
    assert torch.equal(images, IMAGES)


def test_eager_logits_do_not_depend_on_the_batch():
    net = randomize(Net(same))
    one = eager_logits(net, IMAGES, batch=1)
    assert (one.shape, one.dtype, one.flags.c_contiguous) == ((11, 5), np.float32, True)
    for batch in (4, 11, 64):
        np.testing.assert_allclose(eager_logits(net, IMAGES, batch), one, atol=1e-5)


def test_no_hooks_are_left_behind():
    from torch.nn.modules import module

    with pytest.raises(CheckFailed):
        reference_logits(randomize(Net(lambda y: F.softmax(y, 0))), IMAGES, "net")
    assert not module._global_forward_hooks
    assert not module._global_forward_pre_hooks
