"""The road to a device: made on the workstation, compiled, checked and used where neither torch nor onnx is.

TensorRT-RTX builds engines without a GPU; running them needs one, so ONNX Runtime's are what is run here.
"""

import importlib.util
import json
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from bare_venv import make_bare_venv, run_bare
from device_bundle import write_photo
from source_tree import listed
from test_packaging import build_wheel, copy_tree

from resnetrt.cli import run

pytestmark = pytest.mark.slow
ORT = ("onnxruntime-fp32-cpu", "onnxruntime-int8-cpu")
RTX = ("tensorrt_rtx-fp16-portable", "tensorrt_rtx-int8-portable")
FOR_RTX = importlib.util.find_spec("tensorrt_rtx") is not None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("road")


@pytest.fixture(scope="module")
def workstation(place: Path) -> Path:
    """The bundle for the device, by two commands."""
    made = ["deploy", "fashion_resnet20", "--calib-data", "fashion_calib", "--eval-data", "fashion_test"]
    made += ["--for", "tensorrt_rtx,onnxruntime", "--precisions", "fp32,fp16,int8"]
    assert run([*made, "--samples", "64", "--eval-samples", "100", "--out", str(place / "out")]) == 0
    bundle = place / "fashion-device.bundle"
    packaged = ["package", "device", str(place / "out" / "fashion_resnet20.bundle"), "--out", str(bundle)]
    assert run([*packaged, "--for", "tensorrt_rtx,onnxruntime", "--precisions", "fp32,fp16,int8"]) == 0
    return bundle


@pytest.fixture(scope="module")
def python(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare environment: the wheel, what it requires, and TensorRT-RTX where this environment has it."""
    wheel: zipfile.ZipFile = build_wheel(copy_tree(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("wheel"))
    packages = [*listed("options", "install_requires"), *(["tensorrt-rtx"] if FOR_RTX else [])]
    made = make_bare_venv(place / "venv", wheel, packages)
    code = "import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ('torch', 'onnx', 'onnx_ir', 'scipy'))))"
    assert subprocess.run([made, "-I", "-c", code], check=False).returncode == 0
    write_photo(place / "photo.png")
    return made


@pytest.fixture(scope="module")
def device(place: Path, workstation: Path, python: Path) -> Path:
    """The bundle with its engines, compiled on the device."""
    asked = [("onnxruntime", "int8,fp32")] + ([("tensorrt_rtx", "int8,fp16")] if FOR_RTX else [])
    for backend, precisions in asked:
        compiled = answer(
            python, "compile", workstation.name, "--backend", backend, "--precision", precisions, cwd=place
        )
        for engine in compiled["engines"]:
            own = engine["sidecar"]["precision"]
            assert engine["sidecar"]["audit"]["share_by_precision"][own] > 0.9
    return workstation


def answer(python: Path, *words: str, cwd: Path, code: int = 0) -> dict[str, Any]:
    """The JSON of a command that ends with `code`."""
    done = run_bare(python, *words, "--json", cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def test_verify_compares_with_what_eager_said_and_names_what_can_not_run_here(python: Path, device: Path):
    record = answer(python, "verify", device.name, cwd=device.parent)
    assert record["reference"] == "golden-outputs"
    verdicts = {row["engine"]: row["verdict"] for row in record["engines"]}
    here = {"onnxruntime-fp32-cpu": "PASS", "onnxruntime-int8-cpu": "PASS"}
    assert verdicts == here | (dict.fromkeys(RTX, "NOT RUN") if FOR_RTX else {})
    fp32 = next(row for row in record["engines"] if row["engine"] == ORT[0])
    assert fp32["golden"]["sqnr_db"] > 100


def test_bench_takes_the_fp32_file_as_its_baseline_and_never_says_eager(python: Path, device: Path):
    words = ("bench", device.name, "--batches", "1", "--rounds", "6", "--only-latency", "--out", "bench")
    done = run_bare(python, *words, cwd=device.parent)
    assert done.returncode == 0, done.stderr
    record = json.loads((device.parent / "bench" / "bench.json").read_text())
    rows = {row["engine"]: row for row in record["results"]}
    assert rows.keys() == {"onnx-fp32", *ORT}
    assert all(row["times_faster"] for row in rows.values())
    assert "x FP32 file" in done.stdout
    assert "as fast as the FP32 file in ONNX Runtime" in done.stdout
    assert "x eager" not in done.stdout
    page = device.parent / "bench.html"
    assert run_bare(python, "report", "bench/bench.json", "--html", page.name, cwd=device.parent).returncode == 0
    assert "x FP32 file" in page.read_text()
    page.unlink()
    back = device.parent / "bench" / "bench.json"
    own = ["bench", str(device.parent / "out" / "fashion_resnet20.bundle"), "--batches", "1", "--rounds", "6"]
    assert run([*own, "--only-latency", "--out", str(device.parent / "own")]) == 0
    assert run(["report", str(device.parent / "own" / "bench.json"), str(back), "--html", str(page)]) == 0
    shown = page.read_text()
    assert {"x FP32 file", "x eager"} <= set(re.findall(r"<td>(x [^<]*)</td>", shown))
    assert shown.count("<td>onnxruntime-int8-cpu") == 4  # side by side, and in each run's own table


def test_what_verify_and_evaluate_say_there_stands_beside_what_they_say_here(
    python: Path, device: Path, capsys: pytest.CaptureFixture[str]
):
    place, own = device.parent, str(device.parent / "out" / "fashion_resnet20.bundle")
    judged = {"verify": (), "evaluate": ("--data", "fashion_test", "--samples", "200")}
    files = []
    for command, words in judged.items():
        there = run_bare(python, command, device.name, *words, "--json", cwd=place).stdout
        assert run([command, own, *words, "--json"]) == 0
        for side, said in (("there", there), ("here", capsys.readouterr().out)):
            files.append(place / f"{side}-{command}.json")
            files[-1].write_text(said)
    page = place / "all.html"
    assert run(["report", *map(str, files), "--html", str(page)]) == 0
    rows = [re.findall("<td>(.*?)</td>", line) for line in re.findall("<tr>(.*?)</tr>", page.read_text())]
    of_int8 = [row for row in rows if row[:1] == [ORT[1]]]
    assert [row[1] for row in of_int8] == [
        "there-verify.json", "here-verify.json", "there-evaluate.json", "here-evaluate.json"
    ]  # fmt: skip
    assert [row[4] for row in of_int8[:2]] == ["golden-outputs", "eager-fp32"]


def test_evaluate_and_audit(python: Path, device: Path):
    words = ("evaluate", device.name, "--data", "fashion_test", "--samples", "400", "--max-drop", "5")
    record = answer(python, *words, cwd=device.parent)
    assert {row["engine"]: row["verdict"] for row in record["engines"]} == dict.fromkeys(ORT, "PASS")
    audits = answer(python, "audit", device.name, cwd=device.parent)["engines"]
    assert {audit["engine"] for audit in audits} == {*ORT, *(RTX if FOR_RTX else ())}


def test_predict_inspect_and_doctor(python: Path, device: Path):
    record = answer(python, "predict", device.name, "photo.png", cwd=device.parent)
    assert [row["engine"] for row in record["engines"]] == list(ORT)
    assert record["images"][0]["agree"]
    assert answer(python, "inspect", device.name, cwd=device.parent)
    assert answer(python, "doctor", cwd=device.parent)["problems"] == []


@pytest.mark.parametrize(
    ("words", "package"),
    [
        ("export fashion_resnet20 --out new.bundle", "torch"),
        ("calibrate BUNDLE --data fashion_calib", "onnx"),
        ("quantize BUNDLE", "onnx"),
        ("compile BUNDLE --backend tensorrt_rtx --precision bf16", "onnx" if FOR_RTX else "tensorrt_rtx"),
        ("compile BUNDLE --backend openvino --precision fp32", "openvino"),
        ("verify BUNDLE --bisect", "onnx"),
        ("search BUNDLE --data fashion_test --max-drop 1", "onnx"),
        ("evaluate --plan --max-drop 1 --flip-rate 0.02", "scipy"),
        ("bench --depths 18", "torch"),
        ("deploy fashion_resnet20 --calib-data fashion_calib --eval-data fashion_test --out d", "torch"),
        ("quickstart --out q", "torch"),
        ("models", "torch"),
        ("serve BUNDLE --engine onnxruntime-int8-cpu", "starlette"),
        ("package triton BUNDLE --out t --engine onnxruntime-int8-cpu", "tritonclient"),
        ("inspect BUNDLE/fp32.onnx", "onnx"),
    ],
)
def test_what_needs_more_says_so_in_one_line(words: str, package: str, python: Path, device: Path):
    done = run_bare(python, *words.replace("BUNDLE", device.name).split(), cwd=device.parent)
    assert done.returncode == 4, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert package in line
    assert "pip install" in line or "on a workstation run: " in line
    assert "please report" not in line
