"""The whole pipeline: what it refuses before it starts, and what it judges engines on."""

from pathlib import Path

import pytest

from resnetrt.benchmarks.deploy.engines import Wanted
from resnetrt.benchmarks.deploy.run import DeployRequest, deploy
from resnetrt.errors import UsageError


def test_a_misspelt_precision_is_refused_before_anything_is_made(tmp_path: Path):
    asked = DeployRequest(
        "fashion_resnet20", tmp_path, "fashion_calib", "fashion_test", wanted=Wanted(precisions=("fp32", "int4"))
    )
    with pytest.raises(UsageError, match=r"unknown precision 'int4'; did you mean int8"):
        deploy(asked, lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_engines_are_judged_on_the_images_that_eager_got(tmp_path: Path):
    """Also if the module writes into its input."""
    data = {"calib_data": "fashion_calib", "eval_data": "fashion_test", "samples": 16, "eval_samples": 50}
    request = DeployRequest("odd_networks:normalizes_in_place", tmp_path, **data, picture=False, budget_s=1.0)
    _, report, _ = deploy(request, lambda line: None)
    assert {row["engine"]: row["sqnr_db"] for row in report.to_json()["engines"]}["openvino-fp32-cpu"] > 100


def test_engines_for_another_machine_alone_make_a_report_without_a_picture(tmp_path: Path):
    pytest.importorskip("tensorrt_rtx")
    data = {"calib_data": "fashion_calib", "eval_data": "fashion_test", "samples": 16, "eval_samples": 50}
    wanted = Wanted(("tensorrt_rtx",), ("fp16",), "sm75")  # no GPU of today
    _, report, files = deploy(
        DeployRequest("fashion_resnet20", tmp_path, **data, budget_s=1.0, wanted=wanted), lambda line: None
    )
    assert [path.name for path in files] == ["report.json", "report.md"]
    assert [row["engine"] for row in report.summary()] == ["eager-fp32", "tensorrt_rtx-fp16-sm75"]
