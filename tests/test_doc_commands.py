"""Every command of the guides in docs/ runs; where one can't, its reason stands here, or the test that runs it."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image
from source_tree import ROOT
from test_actions_tutorial import write_files
from test_readme import blocks

BINARIES = Path(sys.executable).parent
GPU = "needs TensorRT and a GPU"
NETWORK = "needs a network"
ENGINES = "needs the engines of the line before; test_tutorials.py goes the same road with others"
# By its beginning: why a command is not run here.
NOT_RUN: Mapping[str, str] = {
    "trtexec": GPU,
    "resnetrt compile r50.bundle --backend tensorrt --precision fp16 --import": GPU,
    "resnetrt compile BUNDLE --backend tensorrt --precision int8": GPU,
    "make gpu-check": GPU,
    "resnetrt bench --depths 18,34,50,101,152 --peers": "takes minutes; benchmarks/depth/test_baselines.py",
    "resnetrt bench --depths 50 --compare": "test_ten_minutes.py",
    "resnetrt bench new.bundle --against": "test_actions_tutorial.py",
    "resnetrt bench --depths 18,50 --resume": "needs an interrupted run; cli/test_bench.py",
    "resnetrt package triton": "test_cluster_docs.py",
    "resnetrt package kserve": "test_cluster_docs.py",
    "resnetrt compile r50-device.bundle --backend tensorrt": GPU,
    **dict.fromkeys((f"resnetrt {command} r50-device.bundle" for command in ("verify", "bench", "predict")), ENGINES),
    "resnetrt report own/bench.json device/bench.json": ENGINES,
    "resnetrt evaluate r50.bundle --data test_images/": "needs Ray; benchmarks/cluster/test_evaluate.py",
    "resnetrt calibrate r50.bundle --data train_images/": "needs Ray; benchmarks/cluster/test_calibrate.py",
    "python -c": "needs torchvision, for which models/test_recipes.py has what it prints",
    "resnetrt deploy resnet18 --weights r18.pth --recipe": "takes minutes; test_ten_minutes.py",
    **dict.fromkeys(("pip install", "pip uninstall", ".venv/bin/pip install"), NETWORK),
    **dict.fromkeys(("python3.11 -m venv", ". .venv/bin/activate"), "makes the environment for the line beside it"),
    "python -m resnetrt.benchmarks.peers": "needs the other quantizers; benchmarks/peers/test_peers.py",
    "resnetrt predict r50.bundle --camera": "needs a camera",
    "resnetrt predict r50.bundle clip.mp4": "needs OpenCV; cli/test_predict.py",
}
# Files that the commands of a page write.
LEAVES = {
    "accuracy-gate": ["old.safetensors", "gate.xml", "gate.md", "flips.png"],
    "deploy": ["all/report.md", "auto/report.md"],
    "quantize": ["layers.png", "fashion.cache"],
    "search": ["front.png"],
}
# What takes too long, and what stands in for it.
SHORT = {
    r"--depths [\d,]+": "--depths 18 --precisions int8 --backends onnxruntime --batches 1 --work work",
    r"resnetrt bench (?!.*--runs)": "resnetrt bench --runs 1 ",
    r"--runs 5": "--runs 1",
    r"resnetrt bench ": "resnetrt bench --rounds 1 --budget 0.1 --only-latency ",
    r"--data val": "--data fashion_test --samples 400",
    r"--networks 3000": "--networks 2",
    r"--seconds 5": "--seconds 1",
    r"resnetrt serve ": "resnetrt serve --http-port 0 --grpc-port 0 --metrics-port 0 ",
}


def commands(page: Path) -> list[str]:
    """The lines of the page's shell blocks, without comments; a continued line is one."""
    lines = "\n".join(blocks(page.read_text(encoding="utf-8"), "sh")).replace("\\\n", " ").splitlines()
    return [line for text in lines if (line := re.sub(r"\s{2,}# .*", "", text).strip())]


def reason(line: str) -> str:
    return next((why for beginning, why in NOT_RUN.items() if line.startswith(beginning)), "")


PAGES = {page.stem: page for page in sorted((ROOT / "docs").glob("*.md"))}
COMMANDS = {name: lines for name, page in PAGES.items() if (lines := commands(page))}
TO_RUN = {name: to_run for name, lines in COMMANDS.items() if (to_run := [line for line in lines if not reason(line)])}
del TO_RUN["latency-gate"]  # which repeats commands of the page on bench, see the test


def test_every_reason_is_needed_and_names_a_test_that_is_there():
    lines = [line for page in COMMANDS.values() for line in page]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []
    assert set(COMMANDS["latency-gate"]) <= set(COMMANDS["bench"])
    named = re.findall(r"\S+\.py", " ".join(NOT_RUN.values()))
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


def test_commands_stand_in_blocks_that_are_read_here():
    indented = re.compile(r"^ {4}(?:resnetrt|make|python|pip) ", re.MULTILINE)
    assert [name for name, page in PAGES.items() if indented.search(page.read_text(encoding="utf-8"))] == []


@pytest.fixture(scope="module")
def prepared(exported_fashion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands name, made of the embedded network and its images."""
    folder = tmp_path_factory.mktemp("commands")
    bundle = folder / "r50.bundle"
    shutil.copytree(exported_fashion, bundle)
    run("resnetrt quantize r50.bundle --dialect cpu,onnxruntime,tensorrt", folder)
    for backend in ("onnxruntime", "openvino"):
        run(f"resnetrt compile r50.bundle --backend {backend} --precision fp32,int8", folder)
    for name in ("my", "new", "old", "resnet18", "resnet50", "BUNDLE", "quickstart/fashion_resnet20"):
        copy = folder / (name if name == "BUNDLE" else f"{name}.bundle")
        copy.parent.mkdir(exist_ok=True)
        shutil.copytree(bundle, copy)
    write_files("own-checkpoint", folder)
    subprocess.run([sys.executable, "images.py"], cwd=folder, check=True, timeout=300)
    test = folder / "images" / "test"
    shutil.copytree(test / "Sandal", folder / "holiday")
    Image.open(next((test / "Sandal").iterdir())).convert("RGB").save(folder / "photo.jpg")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


@pytest.fixture
def workplace(prepared: Path, tmp_path: Path) -> Path:
    """A copy for one page."""
    return Path(shutil.copytree(prepared, tmp_path / "here"))


def run(line: str, folder: Path) -> None:
    """Run a command; a server is stopped when it serves."""
    for pattern, short in SHORT.items():
        line = re.sub(pattern, short, line)
    program, *words = shlex.split(line)
    command = [str(BINARIES / program), *words]
    with (folder / "said.txt").open("w+") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, text=True)
        if words[0] == "serve":
            until = time.monotonic() + 120
            while '"message": "ready"' not in (folder / "said.txt").read_text() and process.poll() is None:
                assert time.monotonic() < until, line
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
        code = process.wait(300)
    # one run a side tells nothing apart, so a check of it is INCONCLUSIVE
    assert code in ((0, 3) if "--self-check" in line else (0,)), f"{line}\n{(folder / 'said.txt').read_text()}"


@pytest.mark.slow
@pytest.mark.parametrize("page", TO_RUN)
def test_the_commands_of(page: str, workplace: Path):
    for line in TO_RUN[page]:
        run(line, workplace)
    assert [name for name in LEAVES.get(page, ()) if not (workplace / name).exists()] == []
