"""Every check of suspicious layers fires on a planted fault, names it, and is silent on a healthy network."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_data import Calibrated

from resnetrt.bundle import Bundle
from resnetrt.calibration.explain.layer_report import LayerRow, explain_variant, layer_report
from resnetrt.calibration.explain.suspects import CHECKS, Check, Clues, find_suspects, layer_weights, suspects_of
from resnetrt.calibration.graph.dialects import DIALECTS
from resnetrt.calibration.quantize import insert_qdq
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_model, quantize_variant
from resnetrt.errors import CheckFailed

LAYER = "stages.1.0.conv1.conv"
ROW = LayerRow("b", "Conv", "b", 30.0, 40.0, "r", 0.1, 0.0, 25.5, 0.0, 20.0, 0.0001, 0.001)


@pytest.fixture(scope="module")
def healthy(small_calibrated: Calibrated, tmp_path_factory: pytest.TempPathFactory) -> Clues:
    path = tmp_path_factory.mktemp("healthy") / "int8.onnx"
    network = small_calibrated
    path.write_bytes(quantize_model(network.path, network.record, DIALECTS["cpu"], QuantizeOptions()))
    return Clues(layer_report(network.path, path, network.images), network.record, layer_weights(network.path), {})


@pytest.fixture(scope="module")
def small_calibrated(calibrated: Callable[[str], Calibrated]) -> Calibrated:
    return calibrated("projection")


def with_channels(evidence: Clues, layer: str, change: Callable[[np.ndarray], np.ndarray]) -> Clues:
    """The evidence with other largest magnitudes of the channels that `layer` reads."""
    assert evidence.record is not None
    name = next(row.input for row in evidence.rows if row.layer == layer)
    assert name is not None
    item = evidence.record[name]
    tensors = evidence.record.tensors | {name: replace(item, channel_amax=change(item.channel_amax.copy()))}
    return replace(evidence, record=replace(evidence.record, tensors=tensors))


def few_images(healthy: Clues) -> Clues:
    assert healthy.record is not None
    return replace(healthy, record=replace(healthy.record, image_hashes=("a",) * 8))


def unjudged(healthy: Clues) -> Clues:
    return replace(healthy, rows=healthy.rows[1:])


def low_sqnr(_healthy: Clues) -> Clues:
    return Clues([replace(ROW, own_sqnr_db=12.5)], None, {}, {})


def clipping(_healthy: Clues) -> Clues:
    return Clues([replace(ROW, clipped=0.034, maximum=30.0)], None, {}, {})


def beyond_record(healthy: Clues) -> Clues:
    rows = [replace(row, maximum=99.0) if row.input == "relu" else row for row in healthy.rows]
    return replace(healthy, rows=rows)


def lost_channels(healthy: Clues) -> Clues:
    def fade(amax: np.ndarray) -> np.ndarray:
        amax[1] = 1e-4
        return amax

    loud = healthy.weights[LAYER].copy()
    loud[:, 1] *= 1e5
    return replace(with_channels(healthy, LAYER, fade), weights=healthy.weights | {LAYER: loud})


def outlier_channel(healthy: Clues) -> Clues:
    rows = [replace(row, step=50 * (row.step or 0)) if row.layer == LAYER else row for row in healthy.rows]
    return replace(healthy, rows=rows)


def dead_channels(healthy: Clues) -> Clues:
    def kill(amax: np.ndarray) -> np.ndarray:
        amax[5:] = amax.max()
        amax[:5] = 0
        return amax

    return with_channels(healthy, "stages.1.0.conv2.conv", kill)


def tiny_variance(healthy: Clues) -> Clues:
    fold = {"convolutions": [{"batch_norm": "stem.bn", "tiny_variance_channels": [3, 4, 5, 6, 7]}]}
    return replace(healthy, fold=fold)


# one planted fault for each check, by its name
FAULTS = (
    few_images,
    unjudged,
    low_sqnr,
    clipping,
    beyond_record,
    lost_channels,
    outlier_channel,
    dead_channels,
    tiny_variance,
)


def lines(evidence: Clues) -> list[str]:
    return [str(suspect) for suspect in find_suspects(evidence)]


def test_a_healthy_network_is_not_suspected(healthy: Clues):
    assert lines(healthy) == []


@pytest.mark.parametrize("rules", DIALECTS)
def test_the_embedded_network_is_not_suspected(fashion_bundle: Bundle, rules: str, caplog: pytest.LogCaptureFixture):
    variant, _ = quantize_variant(fashion_bundle, rules, QuantizeOptions())
    rows = explain_variant(fashion_bundle, variant)
    suspects = suspects_of(fashion_bundle, fashion_bundle.variant_file(variant), rows)
    assert [item for item in suspects if item.layer in {row.layer for row in rows}] == []
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            replace(ROW, own_sqnr_db=12.5),
            r"b: its own quantization leaves 12\.5 dB \(expected at least 20\); keep it in",
        ),
        (
            replace(ROW, own_sqnr_db=9.0, clipped=0.2),
            "b: its own quantization leaves 9.0 dB .*; try quantize --method minmax",
        ),
        (
            replace(ROW, clipped=0.034, maximum=30.0),
            r"b: 3\.4% of its input r lie outside \[0, 25\.5\]; try quantize --method minmax",
        ),
    ],
)
def test_rows(row: LayerRow, text: str):
    assert lines(Clues([ROW], None, {}, {})) == []
    assert re.match(text, lines(Clues([row], None, {}, {}))[0])


def test_one_step_is_not_much_even_for_many_values():
    """Black pixels are a third of Fashion-MNIST, at one end of the range, of which MSE gives up a step."""
    row = replace(ROW, low=-1.98, minimum=-2.0, step=0.0156, clipped=0.44)
    assert lines(Clues([row], None, {}, {})) == []


def test_few_images(healthy: Clues):
    assert lines(few_images(healthy)) == [
        "calibration: only 8 images; calibrate with 128 or more: "
        "resnetrt calibrate BUNDLE --data FOLDER --samples 128 --overwrite"
    ]


def test_golden_images_beyond_the_calibrated_range(healthy: Clues):
    (line,) = lines(beyond_record(healthy))
    assert line.startswith("stages.0.0.conv1.conv: golden images reach 99 in relu, calibration only ")


def test_an_outlier_channel(healthy: Clues):
    (sentence, *_) = [line for line in lines(outlier_channel(healthy)) if "integers" in line]
    assert sentence.startswith(f"{LAYER}: channel ")
    assert "the median channel" in sentence


def test_a_file_is_judged_as_it_is_equalized_itself(healthy: Clues):
    """The record may be of an equalized network, the file another tool's or from a cache: then its channels differ."""
    layer = "stages.1.0.conv1.conv"
    name = next(row.input for row in healthy.rows if row.layer == layer)
    assert name is not None
    assert healthy.record is not None
    factors = {name: np.array([1e-4, 1.0, 1.0, 1e-4])}
    loud = healthy.weights[layer].copy()
    loud[:, [0, 3]] *= 1e4
    record = replace(healthy.record, equalization=factors)
    equalized = replace(healthy, weights=healthy.weights | {layer: loud}, record=record)
    assert lines(replace(equalized, factors=factors)) == lines(healthy) == []
    sentences = lines(equalized)  # what the equalized network has at 1 the file has at 0.0001
    assert any(
        line.startswith(f"{layer}: 2 of 4 channels of its input ") and "round to zero" in line for line in sentences
    )
    assert all(
        line.endswith("; equalize the channels: resnetrt quantize BUNDLE, by the bundle's own record")
        for line in sentences
    )


def test_channels_that_round_to_zero_count_only_if_their_weights_do(healthy: Clues):
    lost = lost_channels(healthy)
    assert lines(replace(lost, weights=healthy.weights)) == []
    line = next(line for line in lines(lost) if "round to zero" in line)
    assert line.startswith(f"{LAYER}: 1 of 4 channels of its input ")


def test_dead_channels(healthy: Clues):
    (line,) = lines(dead_channels(healthy))
    assert line.startswith("stages.1.0.conv2.conv: 5 of 8 channels of its input ")
    assert "are dead (always zero)" in line


def test_tiny_variance(healthy: Clues):
    (line,) = lines(tiny_variance(healthy))
    assert line.startswith("stem.bn: running variance of at most eps in 5 channels (3, 4, 5, 6 and 1 more); check")


def test_an_add_is_not_blamed_for_the_layer_before_it():
    low = replace(ROW, layer="conv", own_sqnr_db=5.0)
    add = replace(ROW, layer="add", op="Add", own_sqnr_db=7.0)
    for rows, names in (([low, add, ROW], ["conv"]), ([ROW, add], ["add"]), ([low, add, add], ["conv", "add"])):
        assert [item.layer for item in find_suspects(Clues(rows, None, {}, {}))] == names


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_check_sees_its_own_fault_and_no_other(check: Check, healthy: Clues):
    planted = {fault.__name__: fault(healthy) for fault in FAULTS}
    assert [fault for fault, evidence in planted.items() if list(check(evidence))] == [check.__name__]


def test_a_collapse_names_the_layer(fashion_bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    right = insert_qdq.quantize_weights

    def wrong(weights: np.ndarray, *args: object, **options: object) -> object:
        integers, scales = right(weights, *args, **options)  # type: ignore[arg-type]
        return integers, scales[::-1].copy() * np.float32(3) if weights.shape[:2] == (32, 16) else scales

    monkeypatch.setattr(insert_qdq, "quantize_weights", wrong)
    with pytest.raises(CheckFailed) as caught:
        quantize_variant(fashion_bundle, "cpu", QuantizeOptions())
    assert "parity with the eager model failed" in str(caught.value)
    assert "Suspicious: stages.1.0." in str(caught.value)
    assert set(Bundle.open(fashion_bundle.path).manifest.variants) == {"fp32"}


def test_layer_weights_of_a_gemm_not_transposed(tmp_path: Path, small_calibrated: Calibrated):
    weights = layer_weights(small_calibrated.path)
    assert weights["fc"].shape == (5, 8)
    assert weights["stem.conv"].shape[1] == 3


def scaled_by_another_tool(path: Path) -> int:
    """Let every convolution give three times its output under the old name, and divide behind; returns how many."""
    model = onnx.load(path)
    graph = model.graph
    made = {output: node for node in graph.node for output in node.output}
    scales = [node for node in graph.node if node.op_type == "Conv"]
    thirds = onnx.numpy_helper.from_array(np.array(1 / 3, np.float32), "third")
    tripled = {made[node.input[1]].input[1] for node in scales} | {node.input[2] for node in scales}
    for item in graph.initializer:
        if item.name in tripled:
            item.CopyFrom(onnx.numpy_helper.from_array(3 * onnx.numpy_helper.to_array(item), item.name))
    outputs = [node.output[0] for node in scales]
    for node in graph.node:
        node.input[:] = [f"{name}@back" if name in outputs else name for name in node.input]
    for place in reversed(range(len(graph.node))):
        name = graph.node[place].output[0]
        if name in outputs:
            graph.node.insert(
                place + 1, onnx.helper.make_node("Mul", [name, "third"], [f"{name}@back"], f"{name}@back")
            )
    graph.initializer.append(thirds)
    del model.metadata_props[:]  # else it were a file of our own
    onnx.save(model, path)
    return len(scales)


def test_tensors_that_hold_other_quantities_are_not_accused(calibrated: Callable[[str], Calibrated], tmp_path: Path):
    network = calibrated("projection")
    path = tmp_path / "int8.onnx"
    path.write_bytes(quantize_model(network.path, network.record, DIALECTS["cpu"], QuantizeOptions("minmax")))
    weights = layer_weights(network.path)

    def suspects() -> list[str]:
        rows = layer_report(network.path, path, network.images)
        return [suspect.problem for suspect in find_suspects(Clues(rows, network.record, weights, {}))]

    before = suspects()
    count = scaled_by_another_tool(path)
    said = f"{count} of {len(weights)} hold other values under their names than in FP32"
    assert suspects() == [said, *before]
