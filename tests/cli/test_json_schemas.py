"""The documented JSON schemas: one for each command, and what the commands print is as they say.

The fixture `cli` holds every other test's output against them too.
"""

import json
import shutil
from pathlib import Path

import click
import pytest
from json_schemas import SCHEMAS, check
from jsonschema import ValidationError

from resnetrt.cli import COMMANDS
from resnetrt.cli import cli as group


def commands_with_json() -> set[str]:
    context, names = click.Context(group), set[str]()
    for name in COMMANDS:
        command = group.get_command(context, name)
        inner = command.commands.items() if isinstance(command, click.Group) else []
        for path, each in [(name, command), *((f"{name}-{sub}", item) for sub, item in inner)]:
            if any("--json" in option.opts for option in each.params):
                names.add(path)
    return names


def test_every_command_with_json_has_a_schema():
    assert {path.stem for path in SCHEMAS.glob("*.json")} == {"common", *commands_with_json()}


def test_a_record_that_is_not_as_said_is_refused(cli):
    record = cli("models", "resnet18", "--json").json()
    check("models", record)
    for planted in (
        record | {"undocumented": 1},
        {key: value for key, value in record.items() if key != "conditions"},
        record | {"models": [record["models"][0] | {"gmacs": "1.8"}]},
        record | {"models": [record["models"][0] | {"undocumented": 1}]},
    ):
        with pytest.raises(ValidationError):
            check("models", planted)


def test_a_row_that_builds_on_another_is_refused_too(quickstart: Path):
    record = json.loads((quickstart / "report.json").read_text()) | {"bundle": "", "files": []}
    check("quickstart", record)
    row = record["results"][0]
    for planted in (
        record | {"undocumented": 1},
        record | {"results": [row | {"undocumented": 1}]},
        record | {"results": [{key: value for key, value in row.items() if key != "p99_ms"}]},
    ):
        with pytest.raises(ValidationError):
            check("quickstart", planted)


@pytest.mark.slow
def test_what_each_command_prints(cli, bundle: Path, tmp_path: Path):
    """`cli` checks each of these; `deploy` and `serve` are checked where they are tested."""
    bench, work = tmp_path / "bench", tmp_path / "work.bundle"
    assert cli("export", "fashion_resnet20", "--out", work, "--json").code == 0
    assert cli("calibrate", work, "--data", "fashion_calib", "--json").code == 0
    assert cli("quantize", work, "--dialect", "cpu,onnxruntime", "--explain", "--json").code == 0
    assert cli("compile", work, "--backend", "onnxruntime", "--precision", "fp32,int8", "--json").code == 0
    assert cli("verify", work, "--json").code == 0
    assert cli("verify", work, "--bisect", "--engine", "onnxruntime-int8-cpu", "--json").code == 0
    assert cli("audit", work, "--json").code == 0
    results = tmp_path / "results.json"
    evaluate = ("evaluate", work, "--data", "fashion_test", "--max-drop", "2", "--json")
    assert cli(*evaluate, "--results", results).code == 0
    assert cli(*evaluate, "--baseline", results, "--samples", "600").code in (0, 1, 3)
    assert cli("evaluate", work, "--data", "fashion_test", "--max-drop", "1", "--plan", "--json").code == 0
    assert cli("search", work, "--data", "fashion_test", "--max-drop", "1", "--budget", "3", "--json").code in (0, 3)
    quick = ("--batches", "1", "--rounds", "2", "--json")
    assert cli("bench", work, *quick, "--profile", "onnxruntime-fp32-cpu", "--out", bench).code == 0
    check_itself = ("--only-latency", "--contexts", "2", "--self-check", "--runs", "2", "--precisions", "int8")
    assert cli("bench", work, *quick, *check_itself).code in (0, 1, 3)
    assert cli("report", bench / "bench.json", "--json").code == 0
    shutil.copy(bundle / "fp32.onnx", tmp_path / "model.onnx")
    for path in (work, tmp_path / "model.onnx", work / "calibration.safetensors", work / "manifest.json"):
        assert cli("inspect", path, "--json").code == 0
    assert cli("package", "device", work, "--out", tmp_path / "device.bundle", "--json").code == 0
    packaged = ("--engine", "onnxruntime-int8-cpu", "--json", "--out")
    assert cli("package", "triton", work, *packaged, tmp_path / "model_repository").code == 0
    assert cli("package", "kserve", work, "--storage-uri", "s3://models", *packaged, tmp_path / "kserve").code == 0
    assert cli("doctor", "--json").code == 0
    assert cli("models", "--json").code == 0
