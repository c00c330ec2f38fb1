"""`resnetrt deploy` takes what `export` takes."""

import sys

import pytest

from resnetrt.bundle import Bundle
from resnetrt.cli import run
from resnetrt.cli.compile import command as compile_
from resnetrt.cli.deploy import command as deploy
from resnetrt.cli.export import command as export
from resnetrt.cli.quantize import command as quantize


def test_deploy_says_everything_that_its_stages_can_say():
    known = {option.name for option in deploy.params}
    assert {option.name for option in export.params} - known == set()
    others = {"dialects", "from_trt_cache", "import_file", "explain", "explain_plot"}  # of a bundle that is there
    assert {option.name for option in quantize.params} - known == {"bundle", *others}
    assert {option.name for option in compile_.params} - known == {"bundle", "backend", "variant", "plan", "check"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mean", "0.1,0.2,0.3"], "--mean: expected 1 numbers for fashion_resnet20, found 3"),
        (["--size", "28", "--resize", "20"], "preprocessing: expected resize >= size >= 1, found resize 20"),
        (["--recipe", "absent.json"], "recipe absent.json: expected a JSON file, found"),
        (["--golden-data", "absent"], "absent"),
        (["--method", "entrpy"], "unknown range method 'entrpy'"),
        (["--weights-method", "max"], "'max'"),
        (["--tf32", "--for", "openvino"], "--tf32: expected tensorrt or tensorrt_rtx in --for"),
    ],
)
def test_they_reach_the_export(tmp_path, capsys, options, message):
    command = ["deploy", "fashion_resnet20", "--calib-data", "fashion_calib", "--eval-data", "fashion_test"]
    assert run([*command, "--out", str(tmp_path / "out"), *options]) in (2, 4)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_engines_for_frames_with_learned_rounding(tmp_path, capsys):
    command = ["deploy", "fashion_resnet20", "--calib-data", "fashion_calib", "--eval-data", "fashion_test"]
    few = ["--samples", "32", "--eval-samples", "50", "--for", "onnxruntime", "--method", "minmax"]
    asked = ["--input", "uint8", "--learn-rounding", "--rounding-budget", "0.5", "--no-bias-correction"]
    assert run([*command, *few, *asked, "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().err
    assert lines.count("over 32 golden images of fashion_test") == 4  # the export, three dialects
    bundle = Bundle.open(tmp_path / "out" / "fashion_resnet20.bundle")
    assert set(bundle.manifest.engines) == {"onnxruntime-fp32-cpu-uint8", "onnxruntime-int8-cpu-uint8"}
    made = bundle.manifest.variants["int8.onnxruntime.uint8"]
    assert (made.input, made.evidence["method"], made.evidence["bias_correction"]) == ("uint8", "minmax", False)
    assert made.evidence["rounding"] != "nearest"
    again = ["quantize", str(bundle.path), "--dialect", "tensorrt,onnxruntime", "--input", "uint8"]
    assert run(again) == 2
    assert "this would replace the learned rounding of variant int8.tensorrt.uint8; add --ov" in capsys.readouterr().err
    assert run([*again, "--overwrite"]) == 0
    assert run(again) == 0
    assert lines.index("quantize  for onnxruntime ...") < lines.index("quantize  int8.onnxruntime.uint8.onnx, SQNR")
    assert " layers rounded by learning, " in lines


def test_without_matplotlib_the_report_is_written_all_the_same(tmp_path, capsys, monkeypatch):
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    command = ["deploy", "fashion_resnet20", "--calib-data", "fashion_calib", "--eval-data", "fashion_test"]
    few = ["--samples", "32", "--eval-samples", "50", "--for", "onnxruntime", "--precisions", "fp32"]
    assert run([*command, *few, "--out", str(tmp_path / "out")]) == 0
    err = capsys.readouterr().err
    assert "report    without a picture: picture: the package matplotlib is not installed; run: pip install" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("fashion_resnet20.bundle", "report.json", "report.md")
    }


@pytest.mark.parametrize(
    "command",
    [
        ["search", "absent.bundle", "--data", "fashion_test", "--max-drop", "1", "--picture"],
        ["quantize", "absent.bundle", "--dialect", "cpu", "--explain-plot"],
    ],
)
def test_a_picture_that_was_asked_for_is_refused_before_the_work(tmp_path, capsys, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run([*command, str(tmp_path / "picture.svg")]) == 4
    assert f"{command[-1]}: the package matplotlib is not installed; run: pip install" in capsys.readouterr().err
