"""Counted cost against published figures, and the command that prints it."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from resnetrt.cli.models import command
from resnetrt.errors import UsageError
from resnetrt.models import DEFINITIONS, cost, definition

PUBLISHED_GMACS = {  # torchvision's documentation of its weights ("GFLOPS"), at 224x224
    "resnet18": 1.81,
    "resnet34": 3.66,
    "resnet50": 4.09,
    "resnet101": 7.80,
    "resnet152": 11.51,
    "resnext50_32x4d": 4.23,
    "wide_resnet50_2": 11.40,
}


def meta(name, **options):
    with torch.device("meta"):
        return definition(name, **options).build()


@pytest.mark.parametrize(("name", "gmacs"), PUBLISHED_GMACS.items())
def test_gmacs_are_the_published(name, gmacs):
    assert round(cost(meta(name), (3, 224, 224)).gmacs, 2) == gmacs


def test_v1_costs_less_than_v15():
    v1 = cost(meta("resnet50", stride_in_1x1=True), (3, 224, 224))
    assert v1.gmacs == pytest.approx(3.86, abs=0.01)  # 3.8 in table 1 of the paper
    assert v1.parameters == 25_557_032


def test_layers_by_hand():
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.Flatten(), nn.Linear(24, 5))
    counted = cost(model, (4, 5, 6))
    assert [layer.macs for layer in counted.layers] == [6 * 2 * 2 * (4 // 2) * 9, 24 * 5]
    assert [layer.output_shape for layer in counted.layers] == [(6, 2, 2), (5,)]
    assert counted.macs == sum(layer.macs for layer in counted.layers)
    assert counted.parameters == 6 * 2 * 9 + 6 + 24 * 5 + 5


def test_a_layer_that_runs_twice_counts_twice():
    layer = nn.Linear(3, 3)
    counted = cost(nn.Sequential(layer, layer), (2, 3))
    assert counted.macs == 2 * 2 * 9
    assert counted.parameters == 12


def test_the_module_is_left_alone():
    model = definition("cifar_resnet20").build().train()
    cost(model, (3, 32, 32))
    assert model.training
    assert model.fc.weight.device.type == "cpu"
    assert not any(layer._forward_hooks for layer in model.modules())


def run(*args):
    return CliRunner().invoke(command, args, catch_exceptions=False)


def test_command_json_names_every_definition():
    result = run("--json")
    record = json.loads(result.stdout)
    assert result.exit_code == 0
    assert isinstance(record["schema_version"], int)
    assert record["conditions"]
    assert [model["name"] for model in record["models"]] == list(DEFINITIONS)
    first = record["models"][0]
    assert (first["depth"], first["parameters"], first["gmacs"]) == (18, 11_689_512, 1.814073)
    assert (first["blocks"], first["input_shape"], first["classes"]) == ([2, 2, 2, 2], [3, 224, 224], 1000)


def test_command_json_of_one_has_stages_that_add_up():
    (model,) = json.loads(run("fashion_resnet20", "--json").stdout)["models"]
    assert [stage["name"] for stage in model["stages"]] == ["stem", "stages.0", "stages.1", "stages.2", "fc"]
    assert sum(stage["parameters"] for stage in model["stages"]) == model["parameters"]
    assert sum(stage["gmacs"] for stage in model["stages"]) == pytest.approx(model["gmacs"], abs=1e-5)
    assert model["stages"][3]["output_shape"] == [64, 7, 7]
    assert model["pretrained"] is True


def test_command_table():
    output = run().output
    assert "resnet50" in output
    assert "25,557,032" in output
    assert "4.089" in output
    assert "embedded" in output
    assert "stages.3" in run("resnet50").output


def test_command_with_an_unknown_name():
    with pytest.raises(UsageError, match="unknown model 'resnet51'; did you mean resnet50"):
        run("resnet51")
