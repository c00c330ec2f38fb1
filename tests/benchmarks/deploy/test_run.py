"""What `deploy` compiles: engines that are what their names say, and what was refused."""

from pathlib import Path

import pytest
import tiny_bundle

from resnetrt.benchmarks.deploy.run import DeployRequest, compile_all, deploy
from resnetrt.bundle import Bundle
from resnetrt.errors import CheckFailed, UsageError


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle whose INT8 variant for ONNX Runtime does five sixths of its work in FP32."""
    made = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    tiny_bundle.plant_island(made, "int8.onnxruntime", "conv")
    return made


def request(bundle: Bundle, min_share: float) -> DeployRequest:
    return DeployRequest("tiny", bundle.path.parent, "fashion_calib", "fashion_test", min_share=min_share)


def test_an_engine_that_is_not_what_its_name_says_is_refused_and_the_others_are_kept(bundle: Bundle):
    refused: list[str] = []
    lines: list[str] = []
    engines = compile_all(bundle, request(bundle, 0.5), refused, lines.append)
    assert engines == ["onnxruntime-fp32-cpu", "openvino-fp32-cpu", "openvino-int8-cpu"]
    assert sorted(bundle.manifest.engines) == engines
    (text,) = refused
    assert "found fp32 84.2%, int8 15.8%" in text
    assert text.endswith("--min-share 0")
    assert any(line.startswith("compile   onnxruntime int8 refused: engine onnxruntime-int8-cpu") for line in lines)
    assert any(line.endswith("from eager, 100.0% of its work in int8") for line in lines)


def test_it_can_be_kept_all_the_same(bundle: Bundle):
    refused: list[str] = []
    engines = compile_all(bundle, request(bundle, 0.0), refused, lambda line: None)
    assert ("onnxruntime-int8-cpu" in engines, refused) == (True, [])
    assert bundle.read_engine("onnxruntime-int8-cpu").own_share == pytest.approx(0.158, abs=1e-3)


def test_a_misspelt_precision_is_refused_before_anything_is_made(tmp_path: Path):
    asked = DeployRequest("fashion_resnet20", tmp_path, "fashion_calib", "fashion_test", precisions=("fp32", "int4"))
    with pytest.raises(UsageError, match=r"unknown precision 'int4'; did you mean int8"):
        deploy(asked, lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_with_nothing_left_the_first_refusal_is_the_error(bundle: Bundle):
    with pytest.raises(CheckFailed, match=r"at least 200.0% of the multiply-accumulates in fp32"):
        compile_all(bundle, request(bundle, 2.0), [], lambda line: None)


def test_engines_are_judged_on_the_images_that_eager_got(tmp_path: Path):
    """Also if the module writes into its input."""
    data = {"calib_data": "fashion_calib", "eval_data": "fashion_test", "samples": 16, "eval_samples": 50}
    request = DeployRequest("odd_networks:normalizes_in_place", tmp_path, **data, picture=False, budget_s=1.0)
    _, report, _ = deploy(request, lambda line: None)
    assert {row["engine"]: row["sqnr_db"] for row in report.to_json()["engines"]}["openvino-fp32-cpu"] > 100
