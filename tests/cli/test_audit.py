"""`resnetrt audit`: exit codes and names of its JSON."""

import json
from pathlib import Path

import pytest
import tiny_bundle

from resnetrt.bundle import Bundle
from resnetrt.cli import run
from resnetrt.export.engines.compile import choose_variant, compile_variant


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made = tiny_bundle.make_bundle(tmp_path_factory.mktemp("audit") / "tiny.bundle")
    compile_variant(made, choose_variant(made, "onnxruntime", "int8"), "onnxruntime")
    return made


@pytest.fixture
def dishonest(bundle: Bundle, tmp_path: Path) -> Bundle:
    """An engine that says INT8 and holds the FP32 graph."""
    made = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    name = compile_variant(made, "fp32", "onnxruntime")
    sidecar = made.manifest.engines[name].sidecar
    with made.edit() as editor:
        editor.write_json(sidecar, made.read_json(sidecar) | {"precision": "int8"})
    return made


def test_a_kept_promise_exits_0(bundle: Bundle, capsys: pytest.CaptureFixture[str]):
    assert run(["audit", str(bundle.path), "--require", "int8=0.95", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["schema_version"] == 1
    (engine,) = record["engines"]
    assert {"engine", "layers", "share_by_precision", "unfused"} <= set(engine)
    assert engine["engine"] == "onnxruntime-int8-cpu"
    assert engine["share_by_precision"] == {"int8": 1.0}
    assert sum(layer["macs"] for layer in engine["layers"]) == 700576  # both convolutions and the classifier
    assert {layer["precision"] for layer in engine["layers"] if layer["macs"]} == {"int8"}


@pytest.mark.parametrize("require", [[], ["--require", "int8=0.95"], ["--require", "fp32=1"]])
def test_a_broken_promise_exits_1_with_one_line(
    dishonest: Bundle, capsys: pytest.CaptureFixture[str], require: list[str]
):
    assert run(["audit", str(dishonest.path), *require]) == 1
    errors = capsys.readouterr().err
    assert "engine onnxruntime-fp32-cpu: expected" in errors
    assert "found fp32 100.0%" in errors
    assert len(errors.splitlines()) == 1


def test_layers_are_listed_on_request(bundle: Bundle, capsys: pytest.CaptureFixture[str]):
    assert run(["audit", str(bundle.path), "--layers"]) == 0
    assert "QLinearConv" in capsys.readouterr().out


def test_what_is_listed_says_whether_it_matters(bundle: Bundle, dishonest: Bundle, capsys: pytest.CaptureFixture[str]):
    assert run(["audit", str(bundle.path)]) == 0
    assert "behind convolutions run as layers of their own. Outputs are the same;" in capsys.readouterr().out
    assert run(["audit", str(bundle.path), "--layers"]) == 0
    assert "Add add behind " in capsys.readouterr().out
    assert run(["audit", str(dishonest.path)]) == 1
    islands = "onnxruntime-fp32-cpu: 100.0% of the work runs in fp32, at the speed of fp32: "
    assert islands in capsys.readouterr().out
    with dishonest.edit() as editor:
        sidecar = dishonest.manifest.engines["onnxruntime-fp32-cpu"].sidecar
        editor.write_json(sidecar, dishonest.read_json(sidecar) | {"precision": "fp32"})
    assert run(["audit", str(dishonest.path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("nothing that matters: all of the work in each")


@pytest.mark.parametrize(
    ("require", "message"), [("int8", "expected PRECISION=SHARE"), ("int9=1", "did you mean int8")]
)
def test_a_requirement_that_makes_no_sense_exits_2(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], require: str, message: str
):
    assert run(["audit", str(bundle.path), "--require", require]) == 2
    assert message in capsys.readouterr().err


def test_a_bundle_without_engines_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    assert run(["audit", str(made.path)]) == 2
    assert "no engines yet" in capsys.readouterr().err


def test_a_command_to_copy_is_one_line_on_a_narrow_terminal(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    assert run(["audit", str(bundle.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"  their time: resnetrt bench {bundle.path} --profile onnxruntime-int8-cpu" in lines
