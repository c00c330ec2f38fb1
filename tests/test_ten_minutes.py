"""The first ten minutes: a new environment, no terminal, no HOME, and a checkpoint as each trainer writes it."""

import argparse
import datetime
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bare_venv import make_bare_venv
from source_tree import listed
from test_actions_tutorial import write_files
from test_packaging import build_wheel, copy_tree

Weights = Mapping[str, Any]
RECIPE = {"crop_size": [28], "resize_size": [28], "mean": [0.286] * 3, "std": [0.353] * 3, "interpolation": "bilinear"}
IMAGES = ["--calib-data", "images/train", "--samples", "128", "--eval-data", "images/test", "--eval-samples", "200"]


def behind(prefix: str, weights: Weights) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in weights.items()}


def _torch(content: Callable[[Weights], object]) -> Callable[[Path, Weights], None]:
    def write(path: Path, weights: Weights) -> None:
        import torch

        torch.save(content(weights), path)

    return write


def _safetensors(path: Path, weights: Weights) -> None:
    from safetensors.torch import save_file

    save_file(dict(weights), path)


def _shards(path: Path, weights: Weights) -> None:
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, held in shards.items():
        _safetensors(path.parent / shard, {name: weights[name] for name in held})
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    path.write_text(json.dumps(index))


OPTIONS = argparse.Namespace(lr=0.003, output_dir=Path("runs"), started=datetime.date(2026, 11, 30))
FORMATS: dict[str, Callable[[Path, Weights], None]] = {
    "state.pth": _torch(dict),
    "lightning.ckpt": _torch(
        lambda w: {"state_dict": behind("model", w), "hyper_parameters": {"on_interrupt": signal.SIGINT}, "epoch": 8}
    ),
    "torchvision.pth": _torch(lambda w: {"model": dict(w), "optimizer": {"state": {}}, "epoch": 8, "args": OPTIONS}),
    "timm.pth.tar": _torch(
        lambda w: {"arch": "mine", "state_dict": dict(w), "args": OPTIONS, "metric": np.float64(0.8)}
    ),
    "compiled.pt": _torch(lambda w: behind("_orig_mod", w)),
    "parallel.pth": _torch(lambda w: {"net": behind("module", w)}),
    "backbone.pth": _torch(lambda w: {"weights": behind("backbone", w)}),
    "ema.pth": _torch(lambda w: {"ema": dict(w)}),
    "plain.safetensors": _safetensors,
    "model.safetensors.index.json": _shards,
}


class Shell:
    """Runs `resnetrt` of a new environment in `folder` as a runner would: piped, no terminal, hardly a variable."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder, self._python = folder, python

    def __call__(self, *words: object, codes: tuple[int, ...] = (0,)) -> str:
        """What is printed on stdout; fails unless the exit code is one of `codes`."""
        done = subprocess.run(
            [str(self._python), "-m", "resnetrt.cli", *map(str, words)],
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode in codes, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A new environment, and a folder with images, a network and its weights in every format."""
    folder = tmp_path_factory.mktemp("mine")
    write_files("own-checkpoint", folder)
    for script in ("images.py", "train.py"):
        subprocess.run([sys.executable, script], cwd=folder, check=True, timeout=300)
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    import torch

    stored = torch.load(folder / "best.pth", weights_only=True)["state_dict"]
    weights = {name.removeprefix("module."): value for name, value in stored.items()}
    for name, write in FORMATS.items():
        write(folder / name, weights)
    wheel = build_wheel(copy_tree(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("wheels"))
    packages = [
        *listed("options", "install_requires"),
        *listed("options.extras_require", "torch"),
        "matplotlib",
        "scipy",
    ]
    return Shell(folder, make_bare_venv(tmp_path_factory.mktemp("venv") / "venv", wheel, packages))


@pytest.mark.slow
def test_ten_minutes(shell: Shell):
    recipe = ["--recipe", "recipe.json", "--labels", "labels.txt"]
    out = ["--for", "onnxruntime", "--out", "out"]
    shell("deploy", "mynet:resnet", "--weights", "state.pth", *recipe, *IMAGES, *out)
    bundle, engine = "out/mynet_resnet.bundle", "onnxruntime-int8-cpu"
    gate = ["--engine", engine, "--max-drop", "5", "--junit", "gate.xml"]
    accuracy = shell("evaluate", bundle, "--data", "images/test", *gate, "--json")
    assert 'failures="0"' in (shell.folder / "gate.xml").read_text()
    assert "Sandal" in shell("predict", bundle, "--engine", engine, "images/test/Sandal")

    bench = ["bench", bundle, "--batches", "1", "--runs", "2", "--rounds", "6", "--only-latency"]
    shell(*bench, "--out", "before")
    compare = ["--compare", "before/bench.json", "--max-slowdown", "30%"]
    verdict = shell(*bench, "--out", "after", *compare, codes=(0, 1, 3))  # which one is up to the machine
    assert any(word in verdict for word in ("PASS", "FAIL", "INCONCLUSIVE"))
    (shell.folder / "accuracy.json").write_text(accuracy)
    shell("report", "after/bench.json", "accuracy.json", "--html", "report.html")
    assert engine in (shell.folder / "report.html").read_text()


@pytest.mark.slow
def test_checkpoints_of_every_trainer_make_the_same_file(shell: Shell):
    golden = ["--golden-data", "images/test", "--golden-count", "16"]
    made = set[bytes]()
    for index, name in enumerate(FORMATS):
        shell("export", "mynet:resnet", "--weights", name, "--recipe", "recipe.json", *golden, "--out", f"out{index}")
        made.add((shell.folder / f"out{index}" / "fp32.onnx").read_bytes())
        assert len(made) == 1, name
