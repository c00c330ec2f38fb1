"""`resnetrt predict` as a user runs it, on real engines of a tiny bundle."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from PIL import Image

from resnetrt.bundle import Bundle
from resnetrt.export.engines.compile import compile_variant
from resnetrt.runtime import load

FP32, INT8 = "onnxruntime-fp32-cpu", "onnxruntime-int8-cpu"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with labels and two engines; not to be changed."""
    bundle = tiny_bundle.make_bundle(tmp_path_factory.mktemp("predict") / "tiny.bundle")
    for variant in ("fp32", "int8.onnxruntime"):
        compile_variant(bundle, variant, "onnxruntime")
    with bundle.edit() as editor:
        editor.manifest.labels = [f"thing {index}" for index in range(10)]
    return bundle


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four JPEGs larger than the model, half of them in a subfolder, and a text file."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for index, frame in enumerate(tiny_bundle.frames(4, seed=3)):
        place = folder / "more" if index % 2 else folder
        Image.fromarray(frame).resize((200, 150)).save(place / f"{index}.jpg")
    (folder / "more" / "notes.txt").write_text("no image")
    return folder


def test_a_folder_becomes_labels_and_probabilities(labelled: Bundle, photos: Path, cli):
    record = cli("predict", labelled.path, photos, "--engine", FP32, "--top", 3, "--json").json()
    files = [photos / "0.jpg", photos / "2.jpg", photos / "more" / "1.jpg", photos / "more" / "3.jpg"]
    assert [row["image"] for row in record["images"]] == list(map(str, files))
    with load(labelled, FP32) as session:
        expected = session.predict(files, top=3)
    for row, classes in zip(record["images"], expected, strict=True):
        (answer,) = row["engines"]
        assert answer["engine"] == FP32
        assert [item["label"] for item in answer["classes"]] == [item.label for item in classes]
        np.testing.assert_allclose(
            [item["probability"] for item in answer["classes"]], [item.probability for item in classes], atol=1e-5
        )
        assert answer["ms"] > 0
        assert row["preprocess_ms"] > 0
        assert row["agree"] is None
    assert record["skipped"] == []
    assert record["schema_version"] == 1
    (summary,) = record["engines"]
    assert (summary["engine"], summary["images"]) == (FP32, 4)


def test_a_table_for_people(labelled: Bundle, photos: Path, cli):
    done = cli("predict", labelled.path, photos / "0.jpg", "--engine", FP32)
    with load(labelled, FP32) as session:
        (classes,) = session.predict(photos / "0.jpg")
    assert done.code == 0
    for item in classes:
        assert f"{item.label} {item.probability:.1%}" in done.out
    assert str(photos / "0.jpg") in done.out


@pytest.mark.parametrize("engines", [["--engine", f"{FP32},{INT8}"], ["--engine", FP32, "--engine", INT8]])
def test_engines_side_by_side(labelled: Bundle, photos: Path, cli, engines: list[str]):
    record = cli("predict", labelled.path, photos, *engines, "--json").json()
    assert [row["engine"] for row in record["engines"]] == [FP32, INT8]
    agreed = [row["engines"][0]["classes"][0]["index"] == row["engines"][1]["classes"][0]["index"] for row in
              record["images"]]  # fmt: skip
    assert [row["agree"] for row in record["images"]] == agreed
    assert record["engines"][1]["agreement"] == sum(agreed) / 4
    shown = cli("predict", labelled.path, photos, *engines)
    assert f"top-1 as {FP32}" in shown.out
    assert "same" in shown.out


def test_without_a_choice_all_engines_stand_side_by_side(labelled: Bundle, photos: Path, cli):
    record = cli("predict", labelled.path, photos, "--json").json()
    assert [row["engine"] for row in record["engines"]] == [FP32, INT8]


def test_a_damaged_image_is_named_and_left_out(labelled: Bundle, photos: Path, cli):
    (photos / "1broken.jpg").write_bytes((photos / "0.jpg").read_bytes()[:300])
    done = cli("predict", labelled.path, photos, "--engine", FP32, "--json")
    assert done.code == 1
    assert "left out: image" in done.err
    assert "1 of 5 images were left out" in done.err
    record = done.json()
    assert len(record["images"]) == 4
    (skipped,) = record["skipped"]
    assert skipped["image"] == str(photos / "1broken.jpg")
    assert "expected a readable image" in skipped["reason"]


def test_where_no_image_can_be_read_there_is_one_error(labelled: Bundle, tmp_path: Path, cli):
    (tmp_path / "x.jpg").write_bytes(b"noise")
    done = cli("predict", labelled.path, tmp_path / "x.jpg", "--engine", FP32)
    assert "expected a readable image" in done.one_line(4)
    assert "expected an image file or a folder" in cli("predict", labelled.path, tmp_path / "gone.jpg").one_line(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'FILES...'"),
        (["x.jpg", "--camera", "0"], "expected either FILES or a camera"),
        (["x.jpg", "--frames", "3"], "--frames: expected a camera or a video"),
        (["--camera", "/dev/null", "--json"], "say how many with --frames"),
        (["x.mp4", "y.jpg"], "expected one video alone, found 2 files"),
    ],
)
def test_what_makes_no_sense_is_refused(labelled: Bundle, cli, arguments: list[str], message: str):
    assert message in cli("predict", labelled.path, "--engine", FP32, *arguments).one_line(2)


def test_a_bundle_without_labels_shows_numbers(tmp_path: Path, photos: Path, cli):
    bundle = tiny_bundle.make_bundle(tmp_path / "plain.bundle")
    compile_variant(bundle, "fp32", "onnxruntime")
    record = cli("predict", bundle.path, photos / "0.jpg", "--json").json()
    best = record["images"][0]["engines"][0]["classes"][0]
    assert best["label"] is None
    assert f"class {best['index']} " in cli("predict", bundle.path, photos / "0.jpg").out


def test_a_video_is_shown_frame_by_frame(labelled: Bundle, tmp_path: Path, cli):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'resnetrt[video]'")
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 160))
    for frame in tiny_bundle.frames(5, seed=3):
        writer.write(np.ascontiguousarray(frame.repeat(10, 0).repeat(10, 1)[..., ::-1]))
    writer.release()
    record = cli("predict", labelled.path, clip, "--engine", FP32, "--json").json()
    assert [row["image"] for row in record["images"]] == [f"{clip} frame {number}" for number in range(1, 6)]
    shown = cli("predict", labelled.path, "--camera", clip, "--frames", 2, "--engine", f"{FP32},{INT8}", "--top", 1)
    lines = [line for line in shown.out.splitlines() if " frame " in line]
    assert len(lines) == 2
    assert all(f"{FP32}: thing " in line and f"{INT8}: thing " in line for line in lines)


def test_ctrl_c_is_how_a_video_is_ended(labelled: Bundle, tmp_path: Path):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'resnetrt[video]'")
    clip = tmp_path / "long.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    for _ in range(20_000):
        writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    command = [sys.executable, "-m", "resnetrt.cli", "predict", str(labelled.path), str(clip), "--engine", FP32]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert " frame 1  thing " in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "stopped\n")
    assert "median ms" in out
    assert f"{clip} frame 20000" not in out


def test_it_loads_neither_torch_nor_onnx(labelled: Bundle, photos: Path):
    arguments = ["predict", str(labelled.path), str(photos), "--engine", FP32]
    loaded = "print([name for name in ('torch', 'onnx', 'onnx_ir', 'cv2') if name in sys.modules])"
    code = f"import sys; from resnetrt.cli import run; code = run({arguments!r}); {loaded}; sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
