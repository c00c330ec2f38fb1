"""The search: its order and its number of evaluations, on networks that full INT8 ruins."""

import json
import platform
import signal
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image
from planted_rows import with_verdict

from resnetrt.benchmarks.accuracy.gate import Budget, Pairs
from resnetrt.benchmarks.search.front import pareto
from resnetrt.benchmarks.search.run import SearchRequest, SearchRun
from resnetrt.benchmarks.search.strategy import Mix, Sensitivity, Trial, best, rank, search
from resnetrt.benchmarks.verify.blocks import find_blocks
from resnetrt.bundle import Bundle
from resnetrt.calibration.graph.dialects import dialect
from resnetrt.calibration.images.data import open_dataset
from resnetrt.calibration.observe.collect import calibrate
from resnetrt.calibration.quantize.quantize import QuantizeOptions, load_record, quantize_model
from resnetrt.calibration_record import FILE
from resnetrt.cli import run
from resnetrt.errors import Inconclusive
from resnetrt.runtime import load

GUILTY = "stages.1.1"
BUDGET = Budget(max_drop_pp=2.0)


def initializers(model):
    return {item.name: item for item in model.graph.initializer}


def rescale_channels(bundle, block, factors):
    """Multiply channels between the two convolutions of `block` by `factors`; FP32 outputs stay the same."""
    model = onnx.load(bundle.variant_file("fp32"))
    stored = initializers(model)
    layers = {node.name: node for node in model.graph.node}
    first, second = (layers[f"{block}.{name}.conv"] for name in ("conv1", "conv2"))
    for name, shape, power in (
        (first.input[1], (-1, 1, 1, 1), 1),
        (first.input[2], (-1,), 1),
        (second.input[1], (1, -1, 1, 1), -1),
    ):
        value = numpy_helper.to_array(stored[name])
        scale = np.resize(np.asarray(factors, np.float32), value.shape[1 if power < 0 else 0]) ** power
        stored[name].CopyFrom(numpy_helper.from_array(value * scale.reshape(shape), name))
    with bundle.edit() as editor:
        editor.write("fp32.onnx", model.SerializeToString())
    preprocessing = bundle.manifest.preprocessing
    images = open_dataset("fashion_calib", preprocessing, labelled=False).subset(128)
    record = calibrate(bundle.variant_file("fp32"), images, preprocessing)  # nothing that cures the ruin
    with bundle.edit() as editor:
        editor.write(FILE, record.to_bytes())


def with_outlier(bundle, _rules):
    """One channel a thousand times as large as the others: per-tensor activations of the block lose the rest."""
    rescale_channels(bundle, GUILTY, [1000.0, *[1.0] * 31])


def per_tensor_weights(bundle, rules):
    """A builder that rounds the weights of INT8 layers to one grid a tensor, with channels spread by BatchNorm."""
    rescale_channels(bundle, GUILTY, np.geomspace(1, 1e5, 32))

    def build(keep_float: frozenset[str]) -> bytes:
        fp32 = bundle.variant_file("fp32")
        model = onnx.load(fp32)
        stored = initializers(model)
        for node in model.graph.node:
            if node.op_type in ("Conv", "Gemm") and node.name not in keep_float:
                value = numpy_helper.to_array(stored[node.input[1]])
                scale = np.abs(value).max() / 127
                rounded = (np.rint(value / scale) * scale).astype(np.float32)
                stored[node.input[1]].CopyFrom(numpy_helper.from_array(rounded, node.input[1]))
        path = bundle.path.parent / "rounded.onnx"
        onnx.save(model, path)
        return quantize_model(path, load_record(bundle), dialect(rules), QuantizeOptions("minmax"), keep_float)

    return build


def greedy_evaluations(searcher, engines, split):
    """Greedy removal: each round tries every block that is left and keeps the one that helps most."""
    kept, count = frozenset(), 1
    row = searcher._evaluate(engines, split, Mix(kept))
    while row.verdict != "PASS":
        left = [block.name for block in searcher.blocks if block.name not in kept]
        rows = {name: searcher._evaluate(engines, split, Mix(kept | {name})) for name in left}
        count += len(rows)
        name = max(rows, key=lambda name: rows[name].accuracy.top1)
        kept, row = kept | {name}, rows[name]
    return count, kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ruin", "backend", "rules"),
    [(with_outlier, "onnxruntime", "onnxruntime"), (per_tensor_weights, "openvino", "cpu")],
)
def test_the_guilty_block_is_found_in_fewer_evaluations_than_by_greedy_removal(
    fashion_bundle, ruin, backend, rules, tmp_path
):
    pytest.importorskip(backend)
    build = ruin(fashion_bundle, rules)
    options = QuantizeOptions("minmax")
    request = SearchRequest("fashion_test", BUDGET, backend, samples=800, options=options, build=build)
    searcher = SearchRun(fashion_bundle, request)
    record = searcher.run()
    assert searcher.trials[0].verdict == "FAIL", "full INT8 is ruined"
    assert GUILTY in record["kept"]
    assert len(record["kept"]) <= 2
    assert record["held_out"]["verdict"] == "PASS"
    greedy, kept = greedy_evaluations(searcher, searcher.engines(tmp_path), searcher._cached(searcher._split()[0]))
    assert GUILTY in kept
    assert record["evaluations"] < greedy
    stored = Bundle.open(fashion_bundle.path)
    evidence = stored.manifest.variants[record["stored"]["variant"]].evidence
    assert (evidence["kept"], evidence["kept_precision"]) == (record["kept"], record["kept_precision"])
    with load(stored, record["stored"]["engine"]) as session:
        assert session.selftest.sqnr_db > 12
    precisions = {item["precision"]: item for item in record["islands"]}
    assert set(precisions) == {"fp32", "bf16", "fp16"}
    assert GUILTY in precisions["fp32"]["kept"]
    assert precisions[record["kept_precision"]]["out"] is None
    if backend == "onnxruntime" and platform.machine() == "x86_64":
        assert precisions["fp16"]["out"].startswith("the backend "), "it casts FP16 to FP32"
        assert precisions["fp16"]["median_ms"] > 0
        assert precisions["bf16"]["median_ms"] is None
        assert record["kept_precision"] == "fp32"


def test_the_command_finds_nothing_to_revert_and_draws_the_front(fashion_bundle, tmp_path, capsys):
    command = ["search", str(fashion_bundle.path), "--data", "fashion_test", "--samples", "600", "--max-drop", "3"]
    assert run([*command, "--picture", str(tmp_path / "front"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["kept"], record["evaluations"], record["verdict"]) == ([], 1, "PASS")
    assert {row["engine"] for row in record["front"]} == {"int8", "fp32"}
    with Image.open(tmp_path / "front.png") as picture:
        assert picture.size[0] > 500
    assert len(record["blocks"]) == 11

    assert run(command) == 2
    assert "would replace variant mixed.onnxruntime, which an earlier search stored; add" in capsys.readouterr().err
    assert run([*command, "--overwrite", "--budget", "1e-9"]) == 3
    assert "mixed.onnxruntime" in Bundle.open(fashion_bundle.path).manifest.variants, "nothing better was found"


def test_too_few_images_are_inconclusive(fashion_bundle):
    with pytest.raises(Inconclusive, match=r"found 20 in each half of fashion_test; .* needs \d+ more in each"):
        SearchRun(fashion_bundle, SearchRequest("fashion_test", BUDGET, samples=40)).run()


def test_an_interrupt_keeps_the_best_so_far(fashion_bundle, monkeypatch):
    searcher = SearchRun(fashion_bundle, SearchRequest("fashion_test", Budget(max_drop_pp=3), samples=600))
    evaluate = searcher._evaluate

    def interrupted(engines, split, mix):
        if len(searcher.trials) == 4 and not searcher.stopped:
            signal.raise_signal(signal.SIGINT)
        record = evaluate(engines, split, mix)
        return with_verdict(record, "FAIL") if len(mix.kept) < 4 else record

    monkeypatch.setattr(searcher, "_evaluate", interrupted)
    monkeypatch.setattr(searcher, "_rank", lambda *_: ("fp32", [block.name for block in searcher.blocks]))
    record = searcher.run()
    assert (record["stopped"], record["evaluations"], len(record["kept"])) == ("interrupted", 4, 4)
    assert record["stored"]["variant"] in Bundle.open(fashion_bundle.path).manifest.variants


def test_what_no_16_bit_mix_reaches_is_searched_again_in_fp32(fashion_bundle, monkeypatch):
    searcher = SearchRun(fashion_bundle, SearchRequest("fashion_test", Budget(max_drop_pp=3), samples=600))
    evaluate, names = searcher._evaluate, [block.name for block in searcher.blocks]

    def strict(engines, split, mix):
        enough = engines.is_all(mix) or (mix.precision == "fp32" and len(mix.kept) >= 3)
        record = evaluate(engines, split, mix)
        return record if enough else with_verdict(record, "FAIL")

    monkeypatch.setattr(searcher, "_evaluate", strict)
    monkeypatch.setattr(searcher, "_rank", lambda *_: ("fp16", names))
    record = searcher.run()
    assert (record["kept"], record["kept_precision"]) == (sorted(names[:3]), "fp32")
    assert len({trial.mix for trial in searcher.trials}) == len(searcher.trials), "nothing is evaluated twice"
    assert {row["engine"] for row in record["front"]} >= {"int8", "int8, 1 fp16", "int8, 3 fp32", "fp32"}


def test_a_spent_budget_stops(fashion_bundle):
    request = SearchRequest("fashion_test", Budget(max_drop_pp=3), samples=600, minutes=1e-9)
    record = SearchRun(fashion_bundle, request).run()
    assert (record["stopped"], record["evaluations"], record["front"]) == ("out of time", 0, [])


def test_out_of_time_before_the_first_trial_is_inconclusive(fashion_bundle, capsys):
    command = ["search", str(fashion_bundle.path), "--data", "fashion_test", "--samples", "600", "--max-drop", "3"]
    assert run([*command, "--budget", "1e-9"]) == 3
    said = capsys.readouterr().out
    assert "out of time before a variant was tried, so nothing is known; it needs more time" in said
    assert "no variant passed" not in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--budget", "0"], "--budget: expected a positive number of minutes, found 0.0"),
        (["--budget", "nan"], "--budget: expected a positive number of minutes, found nan"),
        (["--budget", "inf"], "--budget: expected a positive number of minutes, found inf"),
        (["--target", "foo"], "unknown onnxruntime target 'foo'"),
    ],
)
def test_a_senseless_search_is_refused_before_it_begins(more, message, fashion_bundle, capsys):
    command = ["search", str(fashion_bundle.path), "--data", "fashion_test", "--max-drop", "3"]
    assert run([*command, *more]) == 2
    assert message in capsys.readouterr().err


@given(st.integers(0, 40), st.integers(1, 40))
def test_the_least_passing_number_is_found_in_logarithmic_time(needed, blocks):
    needed = min(needed, blocks)
    trials = []
    names = [str(i) for i in range(blocks)]
    none = Pairs(0, 0, 0, 1)
    search(names, lambda mix: Trial(mix, "PASS" if len(mix.kept) >= needed else "FAIL", none), trials)
    assert best(trials).mix.kept == frozenset(names[:needed])
    assert len(trials) <= 2 * np.log2(needed + 1) + 3
    assert len({trial.mix for trial in trials}) == len(trials)


def test_ranking_by_noise_for_time():
    items = [Sensitivity("loud", 1.0, 2.0), Sensitivity("cheap", 0.6, 0.1), Sensitivity("free", 1e-6, -1.0)]
    assert rank(items, 0.05) == ["cheap", "loud", "free"]


def test_pareto_by_hand():
    rows = [{"median_ms": ms, "top1": top1} for ms, top1 in [(1, 90), (2, 92), (3, 91), (2, 89), (1, 90)]]
    assert pareto(rows) == [True, True, False, False, True]


@pytest.mark.parametrize("kind", ["projection", "pad", "plain", "bottleneck"])
def test_every_layer_is_in_exactly_one_block(small_onnx, kind):
    path: Path = small_onnx(kind)
    blocks = find_blocks(path)
    layers = [node.name for node in onnx.load(path).graph.node if node.op_type in ("Conv", "Gemm")]
    assert sorted(name for block in blocks for name in block.nodes if name in layers) == sorted(layers)
    assert len({block.name for block in blocks}) == len(blocks)
    assert blocks[-1].output == "logits"
