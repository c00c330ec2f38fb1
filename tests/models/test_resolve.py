"""From the MODEL argument to a network: definitions, the user's factories, torchvision and timm, shipped weights."""

import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import resnetrt.calibration.images
import resnetrt.models
from resnetrt.errors import BackendMissing, UsageError, WeightsError
from resnetrt.models import DEFINITIONS, resolve
from resnetrt.models.resolve import PRETRAINED
from resnetrt.preprocess import Preprocessing

FACTORIES = """
import torch
from torch import nn
from resnetrt.preprocess import Preprocessing

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        self.train()

class Rgb(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

def grey():
    return Net().half()
grey.preprocessing = Preprocessing("L", 12, (8, 10), (0.5,), (0.25,))
grey.labels = ["cat", "dog"]

class Own(Net):
    preprocessing = grey.preprocessing
    labels = ("a", "b")

def instance_attributes():
    net = Net()
    net.preprocessing, net.labels = grey.preprocessing, ["x", "y"]
    return net

def wrong_labels(): return Net()
wrong_labels.preprocessing, wrong_labels.labels = grey.preprocessing, ["only one"]
def bad_labels(): return Net()
bad_labels.preprocessing, bad_labels.labels = grey.preprocessing, "cat"
def bad_preprocessing(): return Net()
bad_preprocessing.preprocessing = {"size": 8}

def classes(num_classes=5, *, bias=True):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes, bias=bias)
    )

def raises(): raise ValueError("no such\\nthing")
def exits(): raise SystemExit(3)
def number(): return 7
def needs_argument(x): return Net()
def features(): return nn.Conv2d(3, 4, 3)
def pair():
    class Pair(nn.Module):
        def forward(self, x): return x, x
    return Pair()
constant = 5
instance = Net()
class Group:
    rgb = Rgb
"""


@pytest.fixture
def users_folder(tmp_path, monkeypatch):
    """A current directory with a module of factories, forgotten afterwards."""
    (tmp_path / "users_nets.py").write_text(FACTORIES)
    (tmp_path / "broken_nets.py").write_text("import surely_not_installed\n")
    (tmp_path / "script_nets.py").write_text("import sys\nsys.exit('usage: script FILE')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    for name in ("users_nets", "broken_nets", "script_nets"):
        sys.modules.pop(name, None)


def state(resolved):
    return resolved.module.state_dict()


def test_definition_with_shipped_weights():
    resolved = resolve("fashion_resnet20")
    assert resolved.weights.name == "fashion_resnet20.safetensors"
    assert len(resolved.weights.sha256) == 64
    assert resolved.input_shape == (1, 28, 28)
    assert resolved.labels[0] == "T-shirt/top"
    assert not resolved.module.training
    assert resolved.spec == {"definition": "fashion_resnet20", "options": {}}


def test_definition_without_weights_is_random_but_always_the_same():
    torch.manual_seed(5)
    first = resolve("cifar_resnet20")
    after = torch.rand(1)
    torch.manual_seed(6)
    second = resolve("cifar_resnet20")
    assert first.weights.name == "random (seed 0)"
    assert first.weights.sha256 is None
    assert all(torch.equal(value, state(second)[key]) for key, value in state(first).items())
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)  # the caller's generator is left alone


@pytest.mark.parametrize("name", ["resnet101", "cifar_resnet110"])
def test_random_networks_have_usable_logits_at_any_depth(name):
    resolved = resolve(name)
    assert not any(
        layer.training or layer.momentum == 1 for layer in resolved.module.modules() if hasattr(layer, "momentum")
    )
    with torch.no_grad():
        logits = resolved.module(torch.randn(2, 3, 64, 64))
        fresh = DEFINITIONS[name].build()(torch.randn(2, 3, 64, 64))
    assert fresh.abs().max() > 65504  # the reason: without measured statistics FP16 overflows
    assert 0.05 < logits.std() < 20
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_options_reach_the_definition_and_none_is_ignored():
    resolved = resolve("resnet50", num_classes=4, width=32, in_channels=1, groups=None, stem=None)
    config = resolved.module.config
    assert (config.num_classes, config.width, config.groups, config.in_channels) == (4, 32, 1, 1)
    assert resolved.input_shape == (1, 224, 224)
    assert resolved.spec["options"] == {"num_classes": 4, "width": 32, "in_channels": 1}


@pytest.mark.parametrize(
    ("model", "options"), [("fashion_resnet20", {"num_classes": 3}), ("users_nets:grey", {}), ("users_nets:Own", {})]
)
def test_the_spec_rebuilds_the_network(users_folder, model, options):
    first = resolve(model, **options)
    spec = json.loads(json.dumps(first.spec))
    second = resolve(spec.get("definition") or spec["factory"], **spec["options"])
    assert all(torch.equal(value, state(second)[key]) for key, value in state(first).items())


def test_given_weights_replace_the_shipped_ones(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file(
        {key: value.contiguous() for key, value in state(resolve("fashion_resnet20", num_classes=3)).items()}, path
    )
    assert resolve("fashion_resnet20", path, num_classes=3).weights.name == "mine.safetensors"
    assert resolve("fashion_resnet20", path).spec["options"] == {"num_classes": 3}
    with pytest.raises(WeightsError, match="the file fits fashion_resnet20 with num_classes=3"):
        resolve("fashion_resnet20", path, num_classes=4)


def test_factory_with_its_own_preprocessing_and_labels(users_folder):
    resolved = resolve("users_nets:grey")
    assert resolved.preprocessing == Preprocessing("L", 12, (8, 10), (0.5,), (0.25,))
    assert resolved.labels == ("cat", "dog")
    assert resolved.input_shape == (1, 8, 10)
    assert resolved.spec == {"factory": "users_nets:grey", "options": {}}
    assert resolved.weights is None
    assert not resolved.module.training
    assert resolved.module[0].weight.dtype == torch.float32
    assert resolved.module[1].running_mean.eq(0).all()  # the user's statistics are the user's


@pytest.mark.parametrize(("name", "labels"), [("Own", ("a", "b")), ("instance_attributes", ("x", "y"))])
def test_class_and_instance_attributes(users_folder, name, labels):
    assert resolve(f"users_nets:{name}").labels == labels


def test_factory_gets_imagenet_preprocessing_by_default(users_folder):
    resolved = resolve("users_nets:Group.rgb")
    assert resolved.preprocessing == DEFINITIONS["resnet50"].preprocessing
    assert resolved.labels == ()


def test_factory_with_weights(users_folder):
    path = users_folder / "net.pt"
    torch.save({key: torch.ones_like(value) for key, value in state(resolve("users_nets:grey")).items()}, path)
    resolved = resolve("users_nets:grey", path)
    assert resolved.weights.layout == "native"
    assert resolved.module[0].weight.eq(1).all()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no_such_file:net", "no module 'no_such_file' here or installed"),
        ("no_such.package:net", "no module 'no_such' here or installed"),
        ("users_nets.sub:net", "no module 'users_nets.sub'"),
        ("broken_nets:net", "importing broken_nets raised ModuleNotFoundError: No module named 'surely_not_installed'"),
        ("script_nets:net", "importing script_nets raised SystemExit: usage: script FILE"),
        ("users_nets:gray", "unknown factory in users_nets 'gray'; did you mean grey"),
        ("users_nets:constant", "expected a function that returns an nn.Module, found int"),
        ("users_nets:instance", "expected a function that returns an nn.Module, found Net"),
        ("users_nets:raises", "users_nets:raises: the factory raised ValueError: no such thing"),
        ("users_nets:exits", "the factory raised SystemExit: 3"),
        ("users_nets:number", "expected the factory to return an nn.Module, found int"),
        ("users_nets:needs_argument", "the factory raised TypeError: .*missing 1 required"),
        ("users_nets:features", r"expected logits \(1, classes\) from \(1, 3, 224, 224\), found \(1, 4, 222, 222\)"),
        ("users_nets:pair", "found tuple; return the logits only"),
        ("users_nets:Net", r"forward on \(1, 3, 224, 224\) raised RuntimeError.*set the factory's `preprocessing`"),
        ("users_nets:wrong_labels", "expected 2 labels, one per logit, found 1"),
        ("users_nets:bad_labels", "labels: expected a list of strings, found str"),
        ("users_nets:bad_preprocessing", "preprocessing: expected a Preprocessing, found dict"),
        ("users_nets:", "expected package.module:factory"),
        (":grey", "expected package.module:factory"),
        ("resnet19", "unknown model 'resnet19'; did you mean resnet1"),
    ],
)
def test_bad_models_are_one_clear_line(users_folder, model, message):
    with pytest.raises(UsageError, match=message) as caught:
        resolve(model)
    assert "\n" not in str(caught.value)


def test_an_argument_that_the_factory_lacks_is_named(users_folder):
    with pytest.raises(UsageError, match="unknown argument of users_nets:grey 'num_classes'"):
        resolve("users_nets:grey", num_classes=3)
    with pytest.raises(UsageError, match="unknown argument of users_nets:classes 'num_clases'; did you mean num_cla"):
        resolve("users_nets:classes(num_clases=3)")


@pytest.mark.parametrize("options", [{"num_classes": 3, "bias": False}, {"num_classes": 3}, {}])
def test_arguments_reach_the_factory_and_the_spec(users_folder, options):
    written = ", ".join(f"{name}={value!r}" for name, value in options.items())
    resolved = resolve(f"users_nets:classes({written})")
    assert resolved.name == "users_nets:classes"
    assert resolved.spec == {"factory": "users_nets:classes", "options": options}
    assert resolved.module[-1].out_features == options.get("num_classes", 5)
    assert (resolved.module[-1].bias is None) == (not options.get("bias", True))
    again = resolve(resolved.spec["factory"], **json.loads(json.dumps(resolved.spec["options"])))
    assert state(again).keys() == state(resolved).keys()


def test_a_definition_takes_options_in_brackets_and_flags_come_first():
    assert resolve("cifar_resnet20(num_classes=7)", num_classes=4).module.config.num_classes == 4
    assert resolve("cifar_resnet20(num_classes=7)").spec["options"] == {"num_classes": 7}


@pytest.mark.parametrize(
    "call",
    ["(3)", "(num_classes=open('x'))", "(**{'num_classes': 3})", "(", "()()", "(num_classes=3", "(a=1)+1", "(x=1e999)"],
)
def test_what_is_no_call_with_literals_is_one_line(users_folder, call):
    with pytest.raises(UsageError, match=r"expected NAME\(option=value, ...\) with numbers") as caught:
        resolve(f"users_nets:classes{call}")
    assert "\n" not in str(caught.value)


def test_a_factory_with_an_argument_for_it_gets_as_many_classes_as_the_file_has(users_folder):
    path = users_folder / "seven.pt"
    torch.save(state(resolve("users_nets:classes", num_classes=7)), path)
    resolved = resolve("users_nets:classes", path)
    assert resolved.module[-1].out_features == 7
    assert resolved.spec["options"] == {"num_classes": 7}
    with pytest.raises(WeightsError, match="do not fit"):
        resolve("users_nets:classes", path, num_classes=6)


def test_the_weights_place_is_remembered_if_the_user_named_it(users_folder):
    torch.save(state(resolve("users_nets:grey")), users_folder / "net.pt")
    assert resolve("users_nets:grey", Path("net.pt")).weights.path == str(users_folder / "net.pt")
    assert resolve("fashion_resnet20").weights.path is None
    assert resolve("cifar_resnet20").weights.path is None


class NamedResNet(nn.Sequential):
    def __init__(self, num_classes=1000):
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.append(nn.Linear(4, num_classes))


def tv_resnet(*, weights="DEFAULT", **options):
    assert weights is None, "downloads"
    return NamedResNet(**options)


def tv_segmentation(*, weights=None, num_classes=None, weights_backbone="DEFAULT"):
    assert weights is None
    assert weights_backbone is None, "downloads"
    return NamedResNet(num_classes or 21)


@pytest.fixture
def packages(monkeypatch):
    """Stand-ins with the few functions of torchvision and timm that are called."""
    torchvision, timm = types.ModuleType("torchvision"), types.ModuleType("timm")
    builders = {"resnet18": tv_resnet, "resnet50": tv_resnet, "fcn_resnet50": tv_segmentation}
    torchvision.models = types.SimpleNamespace(
        list_models=lambda: list(builders),
        get_model_builder=builders.get,
        get_model=lambda name, **options: builders[name](**options),
    )
    timm.list_models = lambda: ["resnet18", "resnet10t"]
    timm.create_model = lambda name, pretrained, **options: NamedResNet(**options)
    config = {"input_size": (3, 176, 160), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.2,) * 3}
    timm.data = types.SimpleNamespace(resolve_model_data_config=lambda module: config | {"crop_pct": 0.8})
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "timm", timm)


def test_torchvision_model(packages):
    resolved = resolve("torchvision:resnet50", num_classes=6)
    assert resolved.weights.name == "random (seed 0)"
    assert not resolved.module[1].running_mean.eq(0).all()
    assert resolved.spec == {"factory": "torchvision:resnet50", "options": {"num_classes": 6}}


def test_no_weights_of_a_backbone_are_downloaded_either(packages):
    assert resolve("torchvision:fcn_resnet50", num_classes=6).module(torch.zeros(1, 3, 8, 8)).shape == (1, 6)


def test_timm_model_with_its_own_input(packages, caplog):
    resolved = resolve("timm:resnet10t.recipe_in1k")
    assert resolved.input_shape == (3, 176, 160)
    assert resolved.preprocessing.resize == 220
    assert "resizes bicubic, resnetrt bilinear" in caplog.text


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("torchvision:resnet5", {}, "unknown torchvision model 'resnet5'; did you mean resnet50"),
        ("timm:resnet1", {}, "unknown timm model 'resnet1'; did you mean resnet1"),
        ("timm:resnet18", {"width": 3}, "unknown option of timm:resnet18 'width'"),
    ],
)
def test_bad_package_models(packages, model, options, message):
    with pytest.raises(UsageError, match=message):
        resolve(model, **options)


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_absent_package_names_the_command(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BackendMissing, match=f"{package}.*not installed.*pip install {package}"):
        resolve(f"{package}:resnet18")


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_torchvision_of_another_torch_is_one_line(tmp_path, monkeypatch, package):
    (tmp_path / f"{package}.py").write_text("raise RuntimeError('operator torchvision::nms does not\\nexist')")
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        BackendMissing, match=r"cannot be imported beside torch .*nms does not exist.*pip install"
    ) as caught:
        resolve(f"{package}:resnet18")
    assert "\n" not in str(caught.value)


def test_face():
    assert sorted(resnetrt.models.__all__) == [
        "Cost",
        "DEFINITIONS",
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
    assert all(hasattr(resnetrt.models, name) for name in resnetrt.models.__all__)


def test_model_card_states_what_the_weights_are():
    card = (PRETRAINED / "fashion_resnet20.md").read_text(encoding="utf-8")
    resolved = resolve("fashion_resnet20")
    assert resolved.weights.sha256 in card
    assert f"{sum(p.numel() for p in resolved.module.parameters()):,} parameters" in card
    with safe_open(PRETRAINED / "fashion_resnet20.safetensors", "pt") as weights:
        metadata = weights.metadata()
    assert f"{float(metadata['test_top1']):.2%}".replace("%", " %") in card
    assert f"--epochs {metadata['epochs']}\n" in card
    assert float(metadata["test_top1"]) >= 0.925


def test_embedded_weights_reach_the_accuracy_of_the_card():
    card = (PRETRAINED / "fashion_resnet20.md").read_text(encoding="utf-8")
    stated = float(re.search(r"all 10,000 test images \| ([\d.]+) %", card)[1]) / 100
    images = Path(resnetrt.calibration.images.__file__).parent
    with np.load(images / "fashion_test.npz") as data:
        x, y = data["x"], data["y"]
    resolved = resolve("fashion_resnet20")
    with torch.no_grad():
        logits = resolved.module(torch.from_numpy(resolved.preprocessing.normalize(x)))
    top1 = float((logits.argmax(1).numpy() == y).mean())
    assert len(x) == 2000
    assert abs(top1 - stated) < 1.96 * (stated * (1 - stated) / len(x)) ** 0.5


def test_shipped_files_are_small_and_the_image_sets_are_disjoint():
    images = Path(resnetrt.calibration.images.__file__).parent
    files = [PRETRAINED / "fashion_resnet20.safetensors", images / "fashion_calib.npz", images / "fashion_test.npz"]
    assert all(path.stat().st_size < 2_000_000 for path in files)
    with np.load(files[1]) as calib, np.load(files[2]) as test:
        assert calib["x"].shape == (256, 28, 28, 1)
        assert not {image.tobytes() for image in calib["x"]} & {image.tobytes() for image in test["x"]}
