"""Plain and residual networks of several depths on Fashion-MNIST: training error against depth.

Deeper plain networks train worse, residual ones do not (He et al., Deep Residual Learning, 2015, figures 1 and 6); what
depth costs in latency stands beside it, measured on the same machine in the same run.

    python examples/degradation.py --depths 8,14,20,32,44,56 --epochs 3 --out benchmarks/results/degradation
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetrt.benchmarks.measure.latency import Contender, measure_latency
from resnetrt.benchmarks.measure.noise import watch
from resnetrt.benchmarks.measure.timing import Schedule
from resnetrt.benchmarks.reports.theme import COLOURS, FAINT, OTHER, PAPER, dress_axes, dressed, image_bytes
from resnetrt.benchmarks.verify.reference import eager_infer
from resnetrt.conditions import conditions
from resnetrt.models.definitions import definition

# shortcut, colour and marker
KINDS = {"plain": ("none", COLOURS["int8"], "s"), "residual": ("pad", COLOURS["fp32"], "o")}
DATA = Path("/usr/share/datasets/fashion-mnist")


def network(depth: int, shortcut: str) -> nn.Module:
    """A network of section 4.2 of the paper with `depth = 6n + 2` layers on one channel, from seed 0."""
    torch.manual_seed(0)
    blocks = ((depth - 2) // 6,) * 3
    return definition("fashion_resnet20", blocks=blocks, shortcut=shortcut).build()


def load(images: int) -> tuple[Tensor, Tensor]:
    """The first `images` training pictures, normalised, and their labels."""
    from train_fashion import load_split

    x, y = load_split(DATA, "train")
    pictures = definition("fashion_resnet20").preprocessing.normalize(x[:images])
    return torch.from_numpy(pictures), torch.from_numpy(y[:images].astype(np.int64))


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> list[float]:
    """Training error in percent after each epoch, measured in the epoch's forward passes; no augmentation."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    batch, errors = 128, []
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (len(x) // batch))
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        model.train()
        wrong, order = 0, torch.randperm(len(x), generator=generator)
        for start in range(0, len(x) - batch + 1, batch):
            index = order[start : start + batch]
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x[index].contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), y[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            wrong += int((logits.argmax(1) != y[index]).sum())
        errors.append(100 * wrong / (len(x) // batch * batch))
    model.eval()
    return errors


def train_all(depths: list[int], epochs: int, images: int) -> list[dict[str, Any]]:
    """Train every kind at every depth: its training errors."""
    x, y = load(images)
    rows = []
    for depth in depths:
        for kind, (shortcut, *_) in KINDS.items():
            started = time.monotonic()
            errors = train(network(depth, shortcut).to(memory_format=torch.channels_last), x, y, epochs)
            rows.append({"kind": kind, "depth": depth, "train_error_percent": errors})
            print(f"{kind} {depth}: training error {errors[-1]:.1f} %, {time.monotonic() - started:.0f} s", flush=True)
    return rows


def time_all(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their eager latency, all networks timed side by side; weights make no difference to it."""
    threads, image = torch.get_num_threads(), load(1)[0].numpy()
    contenders = []
    for row in rows:
        model = network(row["depth"], KINDS[row["kind"]][0]).eval().to(memory_format=torch.channels_last)
        contenders.append(Contender(f"{row['kind']}-{row['depth']}", "eager", "fp32", eager_infer(model), threads))
    with watch() as noise:
        times = measure_latency("", None, contenders, image, (1,), Schedule(rounds=11, budget_s=40))
    kept = ("median_ms", "ci_ms", "n")
    return [
        row | {name: timing[name] for name in kept} | {"disturbed": noise.disturbed}
        for row, timing in zip(rows, times, strict=True)
    ]


def draw(rows: list[dict[str, Any]], title: str) -> Any:
    """Training error and eager latency against depth, side by side."""
    with dressed() as figure_class:
        figure = figure_class(figsize=(10.0, 4.2), facecolor=PAPER, layout="constrained")
        left, right = figure.subplots(1, 2)
        for kind, (_, colour, marker) in KINDS.items():
            look = {"color": colour, "marker": marker, "label": kind}
            own = [row for row in rows if row["kind"] == kind]
            depths = [row["depth"] for row in own]
            left.plot(depths, [row["train_error_percent"][-1] for row in own], **look)
            low = [max(0.0, row["median_ms"] - row["ci_ms"][0]) for row in own]
            high = [max(0.0, row["ci_ms"][1] - row["median_ms"]) for row in own]
            medians = [row["median_ms"] for row in own]
            right.errorbar(depths, medians, yerr=[low, high], capsize=3, **look)
        dress_axes(left, "What depth does to training", "depth (layers)", "training error in the last epoch, %")
        dress_axes(right, "What depth costs", "depth (layers)", "eager latency, batch 1, ms")
        for axes in (left, right):
            axes.set_facecolor(PAPER)
            axes.set_ylim(bottom=0)
            axes.set_xticks(sorted({row["depth"] for row in rows}))
            axes.legend(frameon=False, edgecolor=FAINT)
        figure.supxlabel(title, fontsize=8, color=OTHER)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", default="8,14,20,32,44,56")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=60000)
    parser.add_argument("--only-latency", action="store_true", help="keep the training errors of --out")
    parser.add_argument("--out", type=Path, default=Path("degradation"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "degradation.json"
    if args.only_latency:
        record = json.loads(path.read_text())
    else:
        rows = train_all([int(depth) for depth in args.depths.split(",")], args.epochs, args.images)
        record = {"epochs": args.epochs, "images": args.images, "results": rows}
        path.write_text(json.dumps(record, indent=2) + "\n")  # should the timing fail
    record = record | {"conditions": conditions(), "results": time_all(record["results"])}
    path.write_text(json.dumps(record, indent=2) + "\n")
    title = f"Fashion-MNIST, {record['images']} images, {record['epochs']} epochs, one seed; intervals 95 %"
    figure = draw(record["results"], title)
    for kind in ("svg", "png"):
        (args.out / f"degradation.{kind}").write_bytes(image_bytes(figure, kind, "degradation"))


if __name__ == "__main__":
    main()
