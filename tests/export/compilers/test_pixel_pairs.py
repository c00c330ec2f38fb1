"""A convolution that steps by two columns equals one over pairs of pixels, for every shape."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_data import dataset_of, recipe, smooth_frames

from resnetrt.calibration.graph.dialects import DIALECTS
from resnetrt.calibration.observe.collect import calibrate
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_model
from resnetrt.export.compilers import openvino
from resnetrt.export.compilers.pixel_pairs import pair_columns, pair_pixels
from resnetrt.machine import read_cpu
from resnetrt.runtime.backends import find_backend
from resnetrt.runtime.backends.openvino import properties, shared_core


def convolution(**attributes: object) -> ir.Node:
    value = ir.Value(name="x")
    return ir.node("Conv", [value, ir.Value(name="w")], attributes)


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 8)),
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    rows=st.integers(1, 3),
    width=st.integers(4, 9).map(lambda half: 2 * half),
    channels=st.integers(1, 3),
)
def test_the_same_products(
    kernel: tuple[int, int], pads: tuple[int, int, int, int], rows: int, width: int, channels: int
):
    rng = np.random.default_rng(1)
    weights = rng.integers(-9, 10, (2, channels, *kernel)).astype(np.float32)
    image = rng.integers(0, 256, (1, 5, width, channels)).astype(np.float32)
    paired = pair_columns(convolution(strides=[rows, 2], pads=list(pads)), weights, width)
    assert paired is not None
    assert min(paired.pads) >= 0

    expected = run(image, weights, (rows, 2), pads)
    outputs, pixels, _, *shape = paired.weights.shape
    in_pairs = image.reshape(1, 5, width // 2, pixels * channels)
    found = run(in_pairs, paired.weights.reshape(outputs, pixels * channels, *shape), paired.strides, paired.pads)
    assert np.array_equal(found, expected)


def run(
    image: np.ndarray, weights: np.ndarray, strides: tuple[int, int], pads: tuple[int, int, int, int]
) -> np.ndarray:
    top, left, bottom, right = pads
    padded = torch.nn.functional.pad(torch.from_numpy(image).movedim(-1, 1), (left, right, top, bottom))
    return torch.nn.functional.conv2d(padded, torch.from_numpy(weights), stride=strides).numpy()


@pytest.mark.parametrize(
    ("attributes", "width"),
    [
        ({"strides": [2, 1]}, 8),
        ({}, 8),
        ({"strides": [2, 2]}, 7),
        ({"strides": [2, 2], "dilations": [1, 2]}, 8),
        ({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, 8),
    ],
)
def test_where_pairs_would_change_something(attributes: dict[str, object], width: int):
    assert pair_columns(convolution(**attributes), np.ones((1, 1, 3, 3), np.float32), width) is None


def quantized(path: Path, folder: Path, kind: str, dialect: str, input_type: str) -> Path:
    preprocessing = recipe(kind)
    record = calibrate(path, dataset_of(smooth_frames(kind, 32), preprocessing), preprocessing)
    options = QuantizeOptions(input=input_type)
    (folder / "int8.onnx").write_bytes(
        quantize_model(path, record, DIALECTS[dialect], options, preprocessing=preprocessing)
    )
    return folder / "int8.onnx"


def test_a_network_reads_frames_in_pairs_with_the_same_outputs(small_onnx: Callable[[str], Path], tmp_path: Path):
    path = quantized(small_onnx("bottleneck"), tmp_path, "bottleneck", "cpu", "uint8")
    blob = pair_pixels(path)
    assert blob is not None
    paired = ir.serde.deserialize_model(onnx.ModelProto.FromString(blob)).graph
    stem = next(node for node in paired if node.op_type == "Conv")
    assert stem.attributes.get_ints("strides") == (2, 1)
    frames = smooth_frames("bottleneck", 6, seed=5)
    expected, found = (openvino_outputs(source, frames) for source in (path, blob))
    np.testing.assert_array_equal(found, expected)


def openvino_outputs(source: Path | bytes, frames: np.ndarray) -> np.ndarray:
    core = shared_core()
    compiled = core.compile_model(core.read_model(source), "CPU", properties("int8", 1))
    return next(iter(compiled(frames).values()))


@pytest.mark.parametrize(
    ("kind", "dialect", "input_type"),
    [("bottleneck", "cpu", "float32"), ("projection", "cpu", "uint8"), ("bottleneck", "tensorrt", "uint8")],
)
def test_other_networks_stay_as_they_are(
    small_onnx: Callable[[str], Path], tmp_path: Path, kind: str, dialect: str, input_type: str
):
    assert pair_pixels(quantized(small_onnx(kind), tmp_path, kind, dialect, input_type)) is None


def test_pairs_that_make_another_network_are_left_out(
    small_onnx: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    path = quantized(small_onnx("bottleneck"), tmp_path, "bottleneck", "cpu", "uint8")

    def upside_down(path: Path) -> bytes | None:
        blob = pair_pixels(path)
        assert blob is not None
        model = onnx.ModelProto.FromString(blob)
        stored = next(item for item in model.graph.initializer if item.name.endswith(".pairs") and len(item.dims) == 4)
        turned = np.ascontiguousarray(onnx.numpy_helper.to_array(stored)[:, :, ::-1])
        stored.CopyFrom(onnx.numpy_helper.from_array(turned, stored.name))
        return model.SerializeToString()

    monkeypatch.setattr(openvino, "read_cpu", lambda: replace(read_cpu(), instruction_sets={"amx_int8": True}))
    assert openvino._in_pairs(path) == pair_pixels(path)
    monkeypatch.setattr("resnetrt.export.compilers.pixel_pairs.pair_pixels", upside_down)
    with caplog.at_level("WARNING", "resnetrt.export"):
        assert openvino._in_pairs(path) is None
    assert "not read by pairs of pixels: it would be another network (max abs error" in caplog.text


@pytest.mark.parametrize("amx", [True, False])
def test_pairs_are_for_cpus_with_amx(
    small_onnx: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amx: bool
):
    path = quantized(small_onnx("bottleneck"), tmp_path, "bottleneck", "cpu", "uint8")
    cpu = replace(read_cpu(), instruction_sets={"amx_int8": amx})
    monkeypatch.setattr(openvino, "read_cpu", lambda: cpu)
    compiled = openvino.compile_engine(path, "int8", "cpu", {})
    (tmp_path / "engine.blob").write_bytes(compiled.blob)
    record = compiled.record("openvino-int8-cpu-uint8", "openvino", "int8", "cpu")
    with find_backend("openvino").load(tmp_path / "engine.blob", record, 1) as session:
        names = {node.get_friendly_name() for node in session.execution_graphs()[1].get_ordered_ops()}
    assert ("pairs" in names) == amx
