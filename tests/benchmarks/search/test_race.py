"""Which precision kept blocks get: only one that really runs, and FP32 unless another is clearly faster."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from tiny_bundle import make_bundle

from resnetrt.benchmarks.search import trial_engines
from resnetrt.benchmarks.search.race import Racer, noisiest_blocks, winner
from resnetrt.benchmarks.search.strategy import Mix
from resnetrt.benchmarks.search.trial_engines import TrialEngines
from resnetrt.benchmarks.verify.blocks import find_blocks
from resnetrt.export.compilers import find_compiler


def racer(precision, ms, least=1.05, out=None):
    return Racer(precision, ("a",), (precision,), ms, (least, 3.0), out)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([racer("bf16", 0.5), racer("fp16", 0.7)], "bf16"),
        ([racer("bf16", 0.5, out="the backend runs it in fp32"), racer("fp16", 0.7)], "fp16"),
        ([racer("bf16", 0.97, least=0.99)], "fp32"),
        ([racer("bf16", 0.5, least=1.0)], "fp32"),
        ([Racer("bf16", ("a",), out="no such kernel"), racer("fp16", 2.0, least=0.4)], "fp32"),
    ],
)
def test_the_winner_runs_and_is_clearly_faster(others, expected):
    assert winner([racer("fp32", 1.0, least=1.0), *others]) == expected


def test_the_noisiest_blocks_make_most_of_the_noise_and_are_never_all():
    assert noisiest_blocks({"a": 0.95, "b": 0.02, "c": 0.02, "d": 0.01}) == {"a"}
    assert noisiest_blocks({"a": 0.5, "b": 0.45, "c": 0.05, "d": 0.0}) == {"a", "b"}
    assert noisiest_blocks(dict.fromkeys("abcdefghij", 0.1)) == {"a", "b", "c"}
    assert noisiest_blocks({"a": 0.5, "b": 0.5}) == {"a"}


def test_what_a_compiler_says_of_its_layers_lies_beside_the_trial(tmp_path, monkeypatch):
    bundle, real = make_bundle(tmp_path / "tiny.bundle"), find_compiler("onnxruntime")

    def compile_engine(*arguments):
        return replace(real.compile_engine(*arguments), companions={"layers.json": {"layers": [1]}})

    compiler = SimpleNamespace(compile_engine=compile_engine, CASTS=real.CASTS)
    monkeypatch.setattr(trial_engines, "find_compiler", lambda _: compiler)
    blocks, folder = find_blocks(bundle.variant_file("fp32")), tmp_path / "trials"
    folder.mkdir()
    engines = TrialEngines(
        bundle, "onnxruntime", "cpu", blocks, lambda _: bundle.variant_file("int8.cpu").read_bytes(), folder
    )
    with engines.open(Mix(frozenset())) as opened:
        beside = opened.path.with_name(f"{opened.session.record.id}.layers.json")
        assert '"layers"' in beside.read_text()
    assert [path.name for path in folder.iterdir()] == ["variant.onnx"]
