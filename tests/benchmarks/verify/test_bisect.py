"""Bisect names the block where a fault was planted, for FP32, FP16 and INT8; and the backend if it is to blame."""

import json

import numpy as np
import odd_networks
import onnx
import pytest
from onnx import numpy_helper

from resnetrt.benchmarks.verify.bisect import bisect, compare_block, onnx_features
from resnetrt.benchmarks.verify.eager_features import eager_features
from resnetrt.benchmarks.verify.prepare import prepare_export
from resnetrt.bundle import Bundle
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
from resnetrt.cli import run
from resnetrt.errors import UsageError
from resnetrt.export.cast.cast import add_cast_variant
from resnetrt.export.engines.compile import compile_variant
from resnetrt.export.fp32.export import export_bundle
from resnetrt.golden import Golden
from resnetrt.parity import sqnr_db

GUILTY, LAYER = "stages.1.1", "stages.1.1.conv1.conv"


def spoil(bundle, name, change):
    """Change the initializers `change` returns a value for, in file `name`."""
    model = onnx.load(bundle.path / name)
    hits = 0
    for item in model.graph.initializer:
        value = change(item.name, numpy_helper.to_array(item))
        if value is not None:
            item.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), item.name))
            hits += 1
    assert hits, "the fault was planted"
    with bundle.edit() as editor:
        editor.write(name, model.SerializeToString())


def weight_of(path, layer):
    return next(node.input[1] for node in onnx.load(path).graph.node if node.name == layer)


def test_a_wrong_export_is_found_by_the_eager_model(fashion_bundle):
    pytest.importorskip("torch")
    clean = bisect(fashion_bundle, "fp32")
    assert clean.reference == "eager-fp32"
    assert clean.first is None
    assert len(clean.rows) == 11, "every block was compared"
    weight = weight_of(fashion_bundle.variant_file("fp32"), LAYER)
    spoil(fashion_bundle, "fp32.onnx", lambda name, v: v * np.float32(1.001) if name == weight else None)
    bisection = bisect(fashion_bundle, "fp32")
    assert bisection.first.block == GUILTY
    assert bisection.before.block == "stages.1.0"
    assert bisection.before.sqnr_db > 100
    assert bisection.first.sqnr_db < 80


def test_a_wrong_export_without_an_eager_model_can_not_be_judged(fashion_bundle, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="expected the eager model to judge the FP32 file by"):
        bisect(fashion_bundle, "fp32")


def with_int8(bundle):
    variant, _ = quantize_variant(bundle, "onnxruntime", QuantizeOptions())
    engine = compile_variant(bundle, variant, "onnxruntime")
    return bundle.manifest.variants[variant].file, bundle.manifest.engines[engine].file, engine


def test_a_bad_scale_of_an_int8_engine(fashion_bundle, capsys):
    _, file, engine = with_int8(fashion_bundle)
    clean = bisect(fashion_bundle, engine)
    assert clean.first is None
    assert max(row.max_steps or 0 for row in clean.rows) < 100  # the clipped extremes
    assert sum(row.max_steps is not None for row in clean.rows) >= 9
    spoil(fashion_bundle, file, first_scale_inside(fashion_bundle, file))
    bisection = bisect(fashion_bundle, engine)
    assert (bisection.first.block, bisection.before.block) == (GUILTY, "stages.1.0")
    assert bisection.first.rms_steps > 3 * bisection.before.rms_steps
    assert run(["verify", str(fashion_bundle.path), "--bisect", "--engine", engine]) == 1
    assert f"{GUILTY} diverges first" in capsys.readouterr().out


def first_scale_inside(bundle, file):
    """Multiply the scale of what the second convolution of the guilty block reads by 1000."""
    model = onnx.load(bundle.path / file)
    layers = {node.name: node for node in model.graph.node}
    made = {output: node for node in model.graph.node for output in node.output}
    scale = made[layers[f"{GUILTY}.conv2.conv"].input[0]].input[1]
    return lambda name, v: v * np.float32(1000) if name == scale else None


def test_a_fault_of_an_fp16_file(fashion_bundle):
    variant, _ = add_cast_variant(fashion_bundle, "fp16")
    clean = bisect(fashion_bundle, variant)
    assert clean.first is None
    assert len(clean.rows) == 11
    assert clean.rows[0].sqnr_db < 80, "it is compared as FP16"
    file = fashion_bundle.manifest.variants[variant].file
    weight = weight_of(fashion_bundle.path / file, LAYER)
    spoil(fashion_bundle, file, lambda name, v: np.minimum(v, v.dtype.type(0.02)) if name == weight else None)
    bisection = bisect(fashion_bundle, variant)
    assert (bisection.first.block, bisection.before.block) == (GUILTY, "stages.1.0")


def test_a_backend_that_answers_otherwise_is_named_as_such(fashion_bundle, monkeypatch):
    _, _, engine = with_int8(fashion_bundle)
    from resnetrt.runtime.session import Session

    infer = Session.infer
    monkeypatch.setattr(Session, "infer", lambda self, b: {k: v[:, ::-1] for k, v in infer(self, b).items()})
    bisection = bisect(Bundle.open(fashion_bundle.path), engine)
    assert (bisection.first.block, bisection.before.block) == ("engine", "fc")


def test_nan_is_outside_every_tolerance():
    row = compare_block("b", "t", np.ones(3), np.array([1, np.nan, 1]), 10.0, {"t": 0.5})
    assert not row.within
    assert json.dumps(row.to_json(), allow_nan=False)


def test_an_unknown_name_is_refused(fashion_bundle):
    with pytest.raises(UsageError, match="unknown engine or variant"):
        bisect(fashion_bundle, "int9")


@pytest.mark.parametrize("unused", [["--count", "64"], ["--data", "fashion_test"]])
def test_options_of_the_other_check_are_refused(unused, fashion_bundle, capsys):
    assert run(["verify", str(fashion_bundle.path), "--bisect", *unused]) == 2
    assert "expected no --data and no --count" in capsys.readouterr().err


@pytest.fixture(scope="module")
def siblings(tmp_path_factory):
    """A network whose BatchNorms are no part of the modules that hold the convolutions."""
    path = tmp_path_factory.mktemp("siblings") / "siblings.bundle"
    return export_bundle(prepare_export("odd_networks:siblings", golden_count=4), path)[0]


def test_a_healthy_network_whose_layers_are_siblings_is_not_accused(siblings, capsys):
    bisection = bisect(siblings, "fp32")
    assert bisection.first is None
    assert bisection.reference == "eager-fp32"
    assert len(bisection.rows) == 7, "the stem, two adds, twice the block, the shared block, the classifier"
    assert min(row.sqnr_db for row in bisection.rows) > 110
    assert run(["verify", str(siblings.path), "--bisect"]) == 0
    assert "every block keeps its tolerance" in capsys.readouterr().out


def test_an_add_is_compared_with_adds_alone(siblings):
    """If the file lost the shortcut, its add is exactly the other branch, which eager computes as well."""
    path = siblings.variant_file("fp32")
    images = siblings.manifest.preprocessing.normalize(Golden.of(siblings).frames)
    (branch,) = onnx_features(path, ["bn2.relu_1"], images)[0].values()
    features = eager_features(odd_networks.siblings(), path, images, {"add_30": branch}, "logits")
    assert features["add_30"].shape == branch.shape
    assert sqnr_db(features["add_30"], branch) < 20


@pytest.mark.parametrize("network", ["convolution_last", "perceptron", "clamped_twice", "normalizes_in_place"])
def test_healthy_networks_are_judged_to_their_end(network, tmp_path):
    bundle, _ = export_bundle(prepare_export(f"odd_networks:{network}", golden_count=4), tmp_path / "net.bundle")
    engine = compile_variant(bundle, "fp32", "openvino")
    for name in ("fp32", engine):
        bisection = bisect(bundle, name)
        assert bisection.first is None
        assert min(row.sqnr_db for row in bisection.rows) > 110
