"""Mistakes, the advice that the command line gives, and the commands that follow it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnetrt.cli import run

STAGES = {  # each is the bundle before it, and one command more
    "exported": "export fashion_resnet20 --out {b}",
    "few": "calibrate {b} --data fashion_calib --samples 16 --no-equalize",
    "calibrated": "calibrate {b} --data fashion_calib --samples 130 --overwrite",
    "quantized": "quantize {b} --dialect cpu,onnxruntime,tensorrt",
    "fp32 engine": "compile {b} --backend onnxruntime --precision fp32",
    "engines": "compile {b} --backend onnxruntime --precision int8",
}
FILL = {  # what stands in place of the words in capitals
    **{"BUNDLE": "{b}", "FOLDER": "fashion_calib", "MODEL": "fashion_resnet20", "DEVICE": "{t}/device"},
    **{"BACKEND": "onnxruntime", "PRECISION": "fp32"},
}
FP32, INT8 = "onnxruntime-fp32-cpu", "onnxruntime-int8-cpu"
COMPILE = "compile {b} --backend onnxruntime"
RTX = "compile {b} --backend tensorrt_rtx"
EVALUATE = "evaluate {b} --data fashion_test --samples 200"
PACKAGE = f"package triton {{b}} --out {{t}}/models --engine {INT8}"
KSERVE = f"package kserve {{b}} --out {{t}}/models --engine {INT8} --storage-uri pvc://claim/models"
BENCH = "bench {b} --batches 1 --threads 1 --rounds 6 --only-latency --budget 1"
AGAIN = ("{said}", "{same}")


def words(line: str, bundle: Path) -> list[str]:
    return [word.format(b=bundle, t=bundle.parent) for word in line.split()]


@dataclass(frozen=True)
class Row:
    stage: str
    mistake: str
    code: int
    says: str  # the advice as printed
    then: tuple[str, ...] = AGAIN  # {said}: the commands in the message; {same}: the mistaken one again
    before: Callable[[Path], object] | str | None = None  # done with the bundle first
    last: tuple[int, ...] = (0,)  # exit codes that the last of `then` may have

    def prepare(self, bundle: Path) -> None:
        if callable(self.before):
            self.before(bundle)
        elif self.before:
            run(words(self.before, bundle))


def _with_weights(bundle: Path) -> None:
    """Exports with weights, which then move elsewhere."""
    import torch

    from resnetrt.models import resolve

    weights = bundle.parent / "w.pth"
    torch.save(resolve("fashion_resnet20").module.state_dict(), weights)
    run(words("export fashion_resnet20 --weights {t}/w.pth --out {b}", bundle))
    run(words(f"{COMPILE} --precision fp32", bundle))
    weights.rename(bundle.parent / "moved.pth")


def _with_other_weights(bundle: Path) -> None:
    import torch

    _with_weights(bundle)
    other = torch.load(bundle.parent / "moved.pth", weights_only=True)
    torch.save({name: value * 2 for name, value in other.items()}, bundle.parent / "w.pth")


def _with_spread_channels(bundle: Path) -> None:
    """The embedded network, computing the same, with one channel between two convolutions 200 times as large."""
    import torch

    from resnetrt.models import resolve

    state = resolve("fashion_resnet20").module.state_dict()
    for name in ("conv1.bn.weight", "conv1.bn.bias"):
        state[f"stages.0.0.{name}"][2] *= 200
    state["stages.0.0.conv2.conv.weight"][:, 2] /= 200
    torch.save(state, bundle.parent / "w.pth")
    run(words("export fashion_resnet20 --weights {t}/w.pth --out {b}", bundle))
    run(words("calibrate {b} --data fashion_calib --samples 130 --no-equalize", bundle))


def _with_a_picture(bundle: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((28, 28), np.uint8)).save(bundle.parent / "shirt.png")


def _with_a_journal(bundle: Path) -> None:
    from resnetrt.benchmarks.accuracy.outcomes import FileJournal

    FileJournal(bundle.parent / "results.journal", {"images": "others"})


def _with_int8_from_a_cache(bundle: Path) -> None:
    for line in (
        "export fashion_resnet20 --out {t}/other",
        "calibrate {t}/other --data fashion_calib --write-trt-cache {t}/cache",
        "quantize {b} --from-trt-cache {t}/cache --dialect tensorrt",
    ):
        run(words(line, bundle))


ROWS = [
    # a bundle, a record, a variant or an engine that is not there yet
    Row("nothing", "inspect {b}", 4, "; make one with: resnetrt export MODEL --out BUNDLE"),
    Row("exported", "quantize {b}", 2, "; make one with: resnetrt calibrate BUNDLE --data FOLDER"),
    Row(
        "exported",
        f"{COMPILE} --precision int8",
        2,
        "; make one with: resnetrt calibrate BUNDLE --data FOLDER, then resnetrt quantize BUNDLE --dialect onnxruntime",
    ),
    Row(
        "calibrated",
        f"{COMPILE} --precision int8 --input uint8",
        2,
        "; make one with: resnetrt quantize BUNDLE --dialect onnxruntime --input uint8",
    ),
    Row(
        "calibrated",
        f"{COMPILE} --precision fp32 --input uint8",
        2,
        "; make one with: resnetrt quantize BUNDLE --input uint8",
    ),
    Row(
        "exported",
        f"{RTX} --precision int8 --target sm86",
        2,
        "; make it with: resnetrt calibrate BUNDLE --data FOLDER, then resnetrt quantize BUNDLE --dialect tensorrt",
    ),
    Row(
        "exported",
        f"{RTX} --precision fp8 --target sm89",
        2,
        "fp8 needs its calibration record; make one with: resnetrt calibrate BUNDLE --data FOLDER",
        before=_with_int8_from_a_cache,
    ),
    Row("exported", "audit {b}", 2, "; make one with: resnetrt compile BUNDLE"),
    Row("exported", "verify {b}", 2, "; make one with: resnetrt compile BUNDLE"),
    Row("exported", "bench {b} --budget 0.02", 2, "; make one with: resnetrt compile BUNDLE"),
    Row("exported", "package triton {b} --out {t}/models", 2, "; make one with: resnetrt compile BUNDLE"),
    Row(
        "exported",
        "package device {b} --out {t}/device --precisions int8",
        2,
        "; make it with: resnetrt calibrate BUNDLE --data FOLDER, then resnetrt quantize BUNDLE",
    ),
    Row(
        "engines",
        "calibrate {t}/device --data fashion_calib",
        2,
        "; package it with: resnetrt package device BUNDLE --out DEVICE --precisions fp32,int8",
        ("package device {b} --out {t}/device --precisions fp32,int8 --overwrite", "{same}"),
        "package device {b} --out {t}/device --precisions int8 --for onnxruntime",
    ),
    Row(
        "exported",
        f"{RTX.replace('_rtx', '')} --precision fp32",
        4,
        "; without one, compile with --backend tensorrt_rtx",
        (f"{RTX} --precision fp32",),
    ),
    Row(
        "quantized",
        f"{RTX} --variant int8.onnxruntime",
        4,
        "; quantize with: resnetrt quantize BUNDLE --dialect tensorrt",
        ("{said}", f"{RTX} --variant int8.tensorrt"),
    ),
    Row(
        "exported",
        f"{RTX} --precision fp32 --target sm75",
        2,
        "; leave sm75 out of --target or choose --precision fp16",
        (f"{RTX} --precision fp32 --target sm86", f"{RTX} --precision fp16 --target sm75"),
    ),
    # an option that is missing, or one too many
    Row("quantized", COMPILE, 2, "; try --precision int8", ("{same} --precision int8",)),
    Row("engines", "verify {b} --bisekt", 2, "; see --help", ("verify --help",)),
    Row(
        "engines",
        f"predict {{b}} --engine {INT8}",
        2,
        "; name images, folders or a video",
        ("predict {b} {t}/shirt.png --engine " + INT8,),
        _with_a_picture,
    ),
    Row(
        "quantized",
        f"{COMPILE} --variant int8.onnxruntime --input uint8",
        2,
        "; name the variant itself: --variant int8.onnxruntime.uint8",
        ("quantize {b} --dialect onnxruntime --input uint8", f"{COMPILE} --variant int8.onnxruntime.uint8"),
    ),
    Row("engines", "package triton {b} --out {t}/m", 2, "; choose with --engine", ("{same} --engine " + INT8,)),
    Row(
        "engines",
        "package triton {b} --out {t}/m --engine tensorrt_rtx-fp16-sm86",
        2,
        "; choose another with --engine",
        (f"package triton {{b}} --out {{t}}/m --engine {INT8}",),
        f"{RTX} --precision fp16 --target sm86",
    ),
    Row(
        "calibrated",
        "quantize {b} --explain-plot {t}/plot.svg --dialect cpu,tensorrt",
        2,
        "; choose with --dialect",
        ("quantize {b} --explain-plot {t}/plot.svg --dialect cpu",),
    ),
    Row(
        "quantized",
        "quantize {b} --import {b}/int8.cpu.onnx",
        2,
        "; choose with --dialect, as tensorrt",
        ("{same} --dialect cpu",),
    ),
    Row(
        "quantized",
        "quantize {b} --import {b}/int8.cpu.onnx --dialect tensorrt",
        1,
        "; quantize it for this target, or import it for another --dialect",
        ("quantize {b} --dialect tensorrt", "quantize {b} --import {b}/int8.cpu.onnx --dialect cpu"),
    ),
    Row(
        "few",
        "quantize {b}",
        0,
        "; calibrate with 128 or more: resnetrt calibrate BUNDLE --data FOLDER --samples 128 --overwrite",
        AGAIN,
    ),
    Row(
        "nothing",
        "quantize {b} --dialect cpu",
        1,
        "; equalize the channels: resnetrt calibrate BUNDLE --data FOLDER --overwrite, without --no-equalize",
        before=_with_spread_channels,
    ),
    # what would be lost
    Row("exported", "export fashion_resnet20 --out {b}", 2, "; add --overwrite to replace it", ("{same} --overwrite",)),
    Row(
        "quantized",
        "calibrate {b} --data fashion_test --samples 16",
        2,
        "; add --overwrite, or calibrate a copy",
        ("{same} --overwrite",),
    ),
    Row(
        "calibrated",
        "quantize {b} --dialect cpu",
        2,
        "; add --overwrite, or --learn-rounding to learn again",
        ("{same} --learn-rounding fashion_calib --rounding-budget 1", "{same} --overwrite"),
        "quantize {b} --dialect cpu --learn-rounding fashion_calib --rounding-budget 1",
    ),
    Row("engines", PACKAGE, 2, "; add --overwrite to replace it", ("{same} --overwrite",), PACKAGE),
    Row("engines", KSERVE, 2, "; add --overwrite to replace it", ("{same} --overwrite",), KSERVE),
    # the accuracy gate
    Row("engines", "evaluate --plan --min-relative 0.99", 2, "--max-drop; ", ("evaluate --plan --max-drop 0.9",)),
    Row(
        "engines",
        f"{EVALUATE} --max-drop 0.1",
        3,
        "; store --results, so that another look",
        ("{same} --results {t}/r",),
        last=(3,),
    ),
    Row(
        "engines",
        f"{EVALUATE} --baseline {{t}}/r",
        2,
        "; add --max-drop",
        ("{same} --max-drop 30",),
        f"{EVALUATE} --results {{t}}/r",
    ),
    Row(
        "engines",
        f"{EVALUATE} --engine {FP32} --max-drop 30 --baseline {{t}}/r",
        2,
        "; if one was only renamed, say --baseline-engine NEW=OLD",
        (f"{{same}} --baseline-engine {FP32}={INT8}",),
        f"{EVALUATE} --engine {INT8} --results {{t}}/r",
    ),
    Row(
        "engines",
        f"{EVALUATE} --max-drop 30 --baseline {{t}}/r",
        3,
        "; store --results of this run as the next baseline",
        (f"{EVALUATE} --results {{t}}/n", f"{EVALUATE} --max-drop 30 --baseline {{t}}/n"),
        f"{EVALUATE} --engine {INT8} --results {{t}}/r",
    ),
    Row(
        "engines",
        f"{EVALUATE} --results {{t}}/results",
        2,
        "; remove it, or choose another --results",
        (f"{EVALUATE} --results {{t}}/others",),
        _with_a_journal,
    ),
    # weights
    Row(
        "nothing",
        "export resnet18 --size 32 --out {b}",
        0,
        "; name trained ones with --weights",
        ("{same} --weights {t}/w.pth --overwrite",),
        lambda bundle: _random_resnet18(bundle.parent / "w.pth"),
    ),
    Row(
        "nothing", "verify {b}", 0, "; name the file with --weights", ("{same} --weights {t}/moved.pth",), _with_weights
    ),
    Row(
        "nothing",
        "verify {b}",
        0,
        "; name that file with --weights",
        ("{same} --weights {t}/moved.pth",),
        _with_other_weights,
    ),
]
# a busy machine makes verdicts INCONCLUSIVE
_COMPARE = "--compare {t}/out/bench.json"
ROWS += [
    Row(
        "fp32 engine",
        BENCH.replace("--rounds 6", "--rounds 1"),
        0,
        "; measure longer with --budget, or ask for at least six with --rounds",
        (BENCH,),
    ),
    Row(
        "fp32 engine",
        f"{BENCH} --resume {{t}}/out/bench.json",
        2,
        "; compare with --compare",
        (f"{BENCH} --runs 2 {_COMPARE}",),
        f"{BENCH} --out {{t}}/out",
        last=(0, 1, 3),
    ),
]


def _random_resnet18(path: Path) -> None:
    import torch

    from resnetrt.models import resolve

    torch.save(resolve("resnet18").module.state_dict(), path)
