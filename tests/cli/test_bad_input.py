"""Every mistake a user can make: one line that says what was expected, the design's exit code, nothing half written."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetrt.bundle import Bundle
from resnetrt.parts import import_part


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of two classes with two images each."""
    root = tmp_path / "images"
    for label in ("0", "1"):
        (root / label).mkdir(parents=True)
        for index in range(2):
            pixels = np.random.default_rng(index).integers(0, 255, (40, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index}.png")
    return root


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy.bundle"))


DATA = ["--calib-data", "fashion_calib", "--eval-data", "fashion_test"]
USAGE = [
    (["exprot"], "did you mean export"),
    (["export", "fashion_resnet20", "--out", "no/such/x"], "expected a path in a folder that exists, found no folder "),
    (
        ["deploy", "fashion_resnet20", *DATA, "--out", "no/x"],
        "expected a path in a folder that exists, found no folder ",
    ),
    (["quickstart", "--out", "no/x"], "expected a path in a folder that exists, found no folder "),
    (["package", "device", "{bundle}", "--out", "no/x"], "expected a path in a folder that exists, found no folder "),
    (["export", "resnet51", "--out", "x"], "resnet50"),
    (["export", "fashion_resnet20"], "Missing option '--out'"),
    (["export", "nowhere.module:factory", "--out", "x"], "nowhere"),
    (["export", "json:loads", "--out", "x"], "json:loads"),
    (["export", "fashion_resnet20", "--out", "x", "--size", "28", "--resize", "20"], "expected resize >= size"),
    (["export", "fashion_resnet20", "--out", "x", "--groups", "2"], "bottleneck"),
    (["export", "fashion_resnet20", "--out", "x", "--mean", "0.1,0.2,0.3"], "expected 1 numbers"),
    (["export", "fashion_resnet20", "--out", "x", "--mean", "a"], "expected numbers"),
    (["export", "fashion_resnet20", "--out", "x", "--opset", "9"], "18<=x<=25"),
    (["calibrate", "{bundle}", "--data", "fashion_calb"], "fashion_calib"),
    (["quantize", "{bundle}", "--method", "entropi"], "range method"),
    (["quantize", "{bundle}", "--dialect", "gpu"], "cpu"),
    (["compile", "{bundle}", "--backend", "openvnio", "--precision", "int8"], "did you mean openvino"),
    (["compile", "{bundle}", "--backend", "openvino"], "--precision"),
    (["compile", "{bundle}", "--backend", "openvino", "--precision", "int9"], "int8"),
    (["verify", "{bundle}", "--engine", "openvino-int9-cpu"], "did you mean openvino-int8-cpu"),
    (["evaluate", "{bundle}"], "Missing option '--data'"),
    (["deploy", "fashion_resnet20", *DATA, "--out", "x", "--method", "foo"], "range method"),
    (["deploy", "fashion_resnet20", *DATA, "--out", "x", "--confidence", "0.9"], "need --backend auto"),
]


@pytest.mark.parametrize(("arguments", "expected"), USAGE, ids=[" ".join(row[0][:4]) for row in USAGE])
def test_wrong_usage(arguments, expected, cli, bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli(*[text.format(bundle=bundle) for text in arguments])
    code = 4 if "fashion_calb" in arguments else 2
    assert expected in result.one_line(code)
    assert not list(tmp_path.iterdir())


def test_weights_of_another_model(cli, tmp_path):
    weights = Path(__file__).resolve().parents[2] / "models" / "pretrained" / "fashion_resnet20.safetensors"
    message = cli("export", "resnet18", "--weights", weights, "--out", tmp_path / "b").one_line(4)
    assert "fashion_resnet20" in message
    assert not (tmp_path / "b").exists()


def test_weights_that_are_truncated_or_hold_code(cli, tmp_path):
    whole = Path(__file__).resolve().parents[2] / "models" / "pretrained" / "fashion_resnet20.safetensors"
    cut, evil = tmp_path / "cut.safetensors", tmp_path / "evil.pth"
    cut.write_bytes(whole.read_bytes()[:50_000])
    evil.write_bytes(pickle.dumps({"conv1.weight": print}))
    for path in (cut, evil, tmp_path / "absent.pth"):
        assert path.name in cli("export", "fashion_resnet20", "--weights", path, "--out", tmp_path / "b").one_line(4)
    assert not (tmp_path / "b").exists()


def test_data_folders(cli, copy, images):
    before = (copy / "manifest.json").read_bytes()
    broken = images / "1" / "1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    assert str(broken) in cli("calibrate", copy, "--data", images, "--overwrite").one_line(4)
    broken.write_text("no image")
    assert str(broken) in cli("calibrate", copy, "--data", images, "--overwrite").one_line(4)
    broken.unlink()
    (images / "2").mkdir()
    assert "2" in cli("evaluate", copy, "--data", images).one_line(4)
    (images / "2").rmdir()
    (images / "77").mkdir()
    shutil.copy(images / "0" / "0.png", images / "77")
    assert "77" in cli("evaluate", copy, "--data", images).one_line(4)
    assert "no-such" in cli("evaluate", copy, "--data", "no-such/folder").one_line(4)
    assert (copy / "manifest.json").read_bytes() == before
    assert [path for path in copy.parent.iterdir() if path.name.startswith(".")] == []


def test_labels_out_of_range_and_calibration_overlap(cli, bundle, tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (8, 28, 28, 1), dtype=np.uint8)
    np.savez(tmp_path / "bad.npz", x=frames, y=np.array([0, 1, 2, 3, 4, 5, 6, 10]))
    assert "10" in cli("evaluate", bundle, "--data", tmp_path / "bad.npz").one_line(4)
    message = cli("evaluate", bundle, "--data", "fashion_calib").one_line(4)
    assert "calibration" in message
    assert cli("evaluate", bundle, "--data", "fashion_calib", "--samples", 50, "--allow-overlap").code == 0


def test_blank_calibration_images_name_the_tensor(cli, copy, tmp_path):
    np.savez(tmp_path / "blank.npz", x=np.zeros((4, 28, 28, 1), np.uint8), y=np.zeros(4, np.int64))
    message = cli("calibrate", copy, "--data", tmp_path / "blank.npz", "--overwrite").one_line(4)
    assert "input" in message
    assert "blank" in message


def test_bundles_that_are_not_right(cli, copy, tmp_path):
    assert "expected a directory" in cli("inspect", tmp_path / "absent").one_line(4)
    (tmp_path / "empty").mkdir()
    assert "half written" in cli("inspect", tmp_path / "empty").one_line(4)
    manifest = copy / "manifest.json"
    good = manifest.read_bytes()
    manifest.write_bytes(good[: len(good) // 2])
    assert "JSON" in cli("verify", copy).one_line(4)
    manifest.write_bytes(good.replace(b'"classes": 10', b'"classes": 11'))
    assert "hash" in cli("verify", copy).one_line(4)
    newer = json.loads(good) | {"schema_version": 99}
    manifest.write_text(json.dumps(newer))
    assert "upgrade resnetrt" in cli("verify", copy).one_line(4)
    manifest.write_bytes(good)
    blob = copy / Bundle.open(copy).manifest.engines["openvino-int8-cpu"].file
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(bytes(content))
    assert "SHA-256" in cli("evaluate", copy, "--data", "fashion_test").one_line(4)


def test_quantize_without_a_record(cli, tmp_path):
    assert cli("export", "fashion_resnet20", "--out", tmp_path / "b").code == 0
    assert "resnetrt calibrate" in cli("quantize", tmp_path / "b").one_line(2)
    assert "resnetrt compile" in cli("verify", tmp_path / "b").one_line(2)


def test_an_existing_path_is_never_overwritten_unasked(cli, copy, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "--out" in cli("export", "fashion_resnet20", "--out", tmp_path / "file", "--overwrite").one_line(2)
    assert "--overwrite" in cli("export", "fashion_resnet20", "--out", copy).one_line(2)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_read_only_place(cli):
    message = cli("export", "fashion_resnet20", "--out", "/proc/resnetrt.bundle").one_line(4)
    assert "/proc" in message


def test_a_full_disk_leaves_the_old_bundle(copy):
    """A file size limit stands in for the full disk: the same failing write, without root."""
    before = {path.name: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from resnetrt.cli import run\n"
        f"sys.exit(run(['quantize', {str(copy)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 4, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert {path.name: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert [path for path in copy.parent.iterdir() if path.name.startswith(".")] == []


def test_a_missing_backend_names_the_extra(bundle):
    code = (
        "import sys; sys.modules['openvino'] = None\n"
        "from resnetrt.cli import run\n"
        f"sys.exit(run(['verify', {str(bundle)!r}, '--engine', 'openvino-int8-cpu']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 4
    assert "resnetrt[openvino]" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_debug_shows_the_traceback_anywhere_on_the_line(tmp_path):
    for arguments in (["--debug", "inspect", "absent"], ["inspect", "absent", "--debug"]):
        command = [sys.executable, "-m", "resnetrt.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert "Traceback" in done.stderr
        assert done.returncode == 4  # as without it
        assert done.stderr.splitlines()[-1].startswith("resnetrt: bundle absent: expected a directory")


def test_what_nobody_foresaw_is_one_line_too(cli, monkeypatch):
    monkeypatch.setattr("resnetrt.cli.models.command.callback", lambda **_: 1 / 0)
    assert "unexpected ZeroDivisionError: division by zero; the same with --debug" in cli("models").one_line(4)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_ctrl_c_while_a_package_is_imported_is_no_missing_package(cli, monkeypatch, name):
    """An extension module that is interrupted while it is imported raises ImportError (seen with onnxruntime)."""

    def interrupted(module):
        raise ImportError("initialization failed", name=module) from KeyboardInterrupt()

    def import_it(**_):
        monkeypatch.setattr("importlib.import_module", interrupted)
        import_part(name, "models")

    monkeypatch.setattr("resnetrt.cli.models.command.callback", import_it)
    assert cli("models").one_line(130) == "resnetrt: interrupted"


def test_without_a_command_there_is_help(cli):
    for words in ((), ("package",)):
        done = cli(*words)
        assert done.code == 2
        assert done.err.startswith("Usage: resnetrt")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--contact-sheet", "x.foo"], "--contact-sheet x.foo: expected a picture's suffix"),
        (["--junit", "."], "--junit .: expected a file to write, found a folder"),
        (
            ["--markdown", "nowhere/x.md"],
            "--markdown nowhere/x.md: expected a file to write, found a folder that is miss",
        ),
    ],
)
def test_files_that_evaluate_can_not_write_are_told_before_it_runs(bundle, cli, more, message, monkeypatch):
    monkeypatch.setattr("resnetrt.benchmarks.evaluate.run.run_gate", lambda *_: pytest.fail("it ran"))
    assert message in cli("evaluate", bundle, "--data", "fashion_test", *more).one_line(2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dialect", "cpu,foo"], "unknown dialect 'foo'"),
        (["--method", "banana", "--input", "uint8"], "unknown range method 'banana'"),
        (["--weights-method", "banana"], "unknown weight method 'banana'"),
        (
            ["--from-trt-cache", "x", "--dialect", "tensorrt", "--method", "mse"],
            "--from-trt-cache decides that; leave out",
        ),
        (["--import", "x", "--dialect", "cpu", "--reduce-range"], "--import decides that; leave out --reduce-range"),
        (["--import", "x", "--dialect", "cpu", "--learn-rounding", "y"], "leave out --learn-rounding"),
    ],
)
def test_wrong_words_leave_the_bundle_as_it_was(copy, cli, more, message):
    before = (copy / "manifest.json").read_bytes()
    assert message in cli("quantize", copy, *more).one_line(2)
    assert (copy / "manifest.json").read_bytes() == before
