"""Learned rounding: less error at the layer's output, within the floor and the ceiling, on calibration images only."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import load as load_onnx
from onnx import numpy_helper
from small_data import Calibrated

from resnetrt.bundle import Bundle
from resnetrt.calibration.graph.dialects import DIALECTS
from resnetrt.calibration.graph.structure import weighted_layers
from resnetrt.calibration.images.data import open_dataset, pixel_hash
from resnetrt.calibration.quantize.learn_rounding import LearnedRounding, Learning, descend
from resnetrt.calibration.quantize.quantize import QuantizeOptions, load_record, quantize_model, quantize_variant
from resnetrt.calibration.quantize.round_weights import quantize_weights
from resnetrt.cli import run
from resnetrt.errors import DataError
from resnetrt.export.variants.parity import run_onnx
from resnetrt.parity import sqnr_db

Array = np.ndarray[Any, np.dtype[Any]]


def cost(integers: Array, scales: Array, rows: Array, covariance: Array) -> Array:
    error = integers.astype(np.float64) * scales[:, None] - rows
    return np.einsum("ij,jk,ik->i", error, covariance.astype(np.float64), error)


def problem(seed: int, width: int, outputs: int = 3) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((outputs, width)).astype(np.float32)
    mixed = rng.standard_normal((width, 2 * width)) * np.geomspace(1, 0.05, 2 * width)
    return rows, (mixed @ mixed.T / width + 1e-3 * np.eye(width)).astype(np.float32)


@given(st.integers(0, 10_000), st.integers(1, 200), st.sampled_from([3, 15, 127]))
def test_never_worse_and_never_beyond_the_neighbours(seed: int, width: int, limit: int):
    rows, covariance = problem(seed, width)
    integers, scales = quantize_weights(rows, 0, limit)
    rounded = descend(rows, integers, scales, covariance, limit)
    assert (np.abs(rounded * scales[:, None] - rows) <= scales[:, None] * (1 + 1e-5)).all()
    assert np.abs(rounded).max() <= limit
    before, after = (cost(values, scales, rows, covariance) for values in (integers, rounded))
    assert (after <= before * (1 + 1e-4) + 1e-9).all()


def test_near_the_best_of_all_choices():
    """Against every combination of floors and ceilings of ten weights; nearest is far from it."""
    ratios, nearest = [], []
    for seed in range(20):
        rows, covariance = problem(seed, 10, 1)
        integers, scales = quantize_weights(rows, 0, 7)
        low = np.floor(rows / scales[:, None])
        every = np.clip(np.array(list(product((0, 1), repeat=10))) + low, -7, 7)
        best = cost(every, scales.repeat(len(every)), rows, covariance).min()
        ratios.append(cost(descend(rows, integers, scales, covariance, 7), scales, rows, covariance)[0] / best)
        nearest.append(cost(integers, scales, rows, covariance)[0] / best)
    assert np.median(ratios) < 1.5
    assert np.median(nearest) > 1.5 * np.median(ratios)


@pytest.mark.parametrize("kind", ["projection", "pad", "bottleneck"])
def test_covariances_are_those_of_the_patches(calibrated: Callable[[str], Calibrated], kind: str):
    """Against torch.unfold over all positions; the stem, strided and 1x1 layers, and the classifier."""
    network = calibrated(kind)
    model = ir.load(str(network.path))
    images = network.images[:8]
    rounding = LearnedRounding(model, lambda: [images[:5], images[5:]], 60)
    names = [layer.name or "" for layer in weighted_layers(model.graph)]
    collected = rounding._collect(names)
    sources = {
        layer.name: layer.inputs[0].name for layer in weighted_layers(model.graph) if layer.inputs[0] is not None
    }
    from resnetrt.benchmarks.verify.bisect import onnx_features

    values, _ = onnx_features(network.path, [name for name in sources.values() if name != "input"], images)
    for layer in weighted_layers(model.graph):
        source = torch.from_numpy({**values, "input": images.astype(np.float64)}[sources[layer.name]])
        if layer.op_type == "Conv":
            kernel = layer.inputs[1].const_value.shape.numpy()[2:]
            pads, strides = layer.attributes["pads"].as_ints(), layer.attributes["strides"].as_ints()
            source = torch.nn.functional.unfold(source, kernel, padding=tuple(pads[:2]), stride=tuple(strides))
            source = source.transpose(1, 2).reshape(-1, source.shape[1])
        expected = np.cov(source.numpy().reshape(-1, source.shape[-1]).T, bias=True)
        exact = collected[layer.name or ""]
        assert exact.shape == expected.shape
        np.testing.assert_allclose(exact, expected, atol=2e-3 * np.trace(expected) / len(expected), rtol=2e-3)


@pytest.mark.parametrize(("rules", "input_type"), [("cpu", "uint8"), ("onnxruntime", "float32"), ("tensorrt", "uint8")])
def test_logits_lose_less(fashion_bundle: Bundle, tmp_path: Path, rules: str, input_type: str):
    record, preprocessing = load_record(fashion_bundle), fashion_bundle.manifest.preprocessing
    path = fashion_bundle.variant_file("fp32")
    frames = next(iter(open_dataset("fashion_test", preprocessing).batches(256))).frames
    images = preprocessing.normalize(frames)
    expected = run_onnx(path, images).astype(np.float64)
    learning = Learning.of("fashion_calib", preprocessing, record.image_hashes, 60)
    decibels = []
    for how in (None, learning):
        options = QuantizeOptions(input=input_type, reduce_range=True, learning=how)  # 7 bits: rounding weighs more
        (tmp_path / "q.onnx").write_bytes(
            quantize_model(path, record, DIALECTS[rules], options, preprocessing=preprocessing)
        )
        logits = run_onnx(tmp_path / "q.onnx", frames if input_type == "uint8" else images)
        decibels.append(sqnr_db(expected, logits.astype(np.float64)))
    assert learning.last is not None
    assert learning.last.skipped == []
    assert decibels[1] > decibels[0] + 0.3, decibels


def test_time_is_kept_and_told(fashion_bundle: Bundle):
    record = load_record(fashion_bundle)
    learning = Learning.of("fashion_calib", fashion_bundle.manifest.preprocessing, record.image_hashes, 1e-9)
    variant, _ = quantize_variant(fashion_bundle, "cpu", QuantizeOptions(learning=learning))
    nearest, _ = quantize_variant(fashion_bundle, "onnxruntime", QuantizeOptions())
    evidence = fashion_bundle.manifest.variants[variant].evidence["rounding"]
    assert evidence == {"learned_layers": 0, "nearest_layers": 22}
    assert fashion_bundle.manifest.variants[nearest].evidence["rounding"] == "nearest"


def test_only_images_of_the_record(fashion_bundle: Bundle):
    record, preprocessing = load_record(fashion_bundle), fashion_bundle.manifest.preprocessing
    with pytest.raises(DataError, match="data fashion_test: expected images of the calibration record, found none"):
        Learning.of("fashion_test", preprocessing, record.image_hashes, 1)
    frames = Learning.of("fashion_calib", preprocessing, record.image_hashes, 1)._frames
    assert 0 < len(frames) <= 128
    assert {pixel_hash(frame) for frame in frames} <= set(record.image_hashes)


def test_the_command(fashion_bundle: Bundle, capsys: pytest.CaptureFixture[str]):
    command = ["quantize", str(fashion_bundle.path), "--dialect", "cpu", "--learn-rounding", "fashion_calib"]
    assert run([*command, "--rounding-budget", "0.001"]) == 0
    assert "layers are rounded to nearest; more time: --rounding-budget" in capsys.readouterr().err
    nearest = weights_of(fashion_bundle)
    assert run(command) == 0
    assert "rounded to nearest" not in capsys.readouterr().err
    learned = weights_of(fashion_bundle)
    assert nearest.keys() == learned.keys()
    assert all((np.abs(learned[name].astype(int) - nearest[name]) <= 1).all() for name in nearest)
    assert any((learned[name] != nearest[name]).any() for name in nearest)
    assert run([*command, "--import", "other.onnx"]) == 2
    assert "--import decides that; leave out --learn-rounding" in capsys.readouterr().err


def weights_of(bundle: Bundle) -> dict[str, Array]:
    model = load_onnx(Bundle.open(bundle.path).variant_file("int8.cpu"))
    return {
        item.name: numpy_helper.to_array(item)
        for item in model.graph.initializer
        if item.name.endswith("weight.quantized")
    }
