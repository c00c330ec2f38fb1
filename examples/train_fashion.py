"""Train the embedded `fashion_resnet20` on Fashion-MNIST and write its weights and images.

Data: Debian's package `dataset-fashion-mnist` (MIT licence). Seeded: the same machine gives the same weights.

    python examples/train_fashion.py --epochs 14 --out models/pretrained --images calibration/images
"""

import argparse
import gzip
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from resnetrt.models.definitions import definition

NAME = "fashion_resnet20"


def read_idx(path: Path, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 payload of an IDX file after `offset` header bytes."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset).reshape(shape)


def load_split(root: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `(N, 28, 28, 1)` and labels `(N,)` of the `train` or `t10k` split, both uint8."""
    x = read_idx(root / f"{prefix}-images-idx3-ubyte.gz", 16, (-1, 28, 28, 1))
    return x, read_idx(root / f"{prefix}-labels-idx1-ubyte.gz", 8, (-1,))


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the images and shift each by up to two pixels; `x` is `(N, 1, 28, 28)`."""
    n = len(x)
    x = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, x.flip(3), x)
    padded = F.pad(x, (2, 2, 2, 2), value=x.min().item())
    rows = torch.randint(0, 5, (n, 1, 1, 1), generator=generator) + torch.arange(28).view(1, 1, 28, 1)
    columns = torch.randint(0, 5, (n, 1, 1, 1), generator=generator) + torch.arange(28).view(1, 1, 1, 28)
    return padded[torch.arange(n).view(n, 1, 1, 1), 0, rows, columns]


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over a fifth of the steps, then a cosine to zero (Smith and Topin 2017)."""
    warm = steps // 5
    return peak * step / warm if step < warm else peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


@torch.no_grad()
def top1(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of images whose largest logit is the label."""
    model.eval()
    hits = sum((model(x[i : i + 500]).argmax(1) == y[i : i + 500]).sum().item() for i in range(0, len(x), 500))
    return hits / len(x)


def train(model: nn.Module, x: Tensor, y: Tensor, test: tuple[Tensor, Tensor], epochs: int, seed: int) -> None:
    """SGD with Nesterov momentum, one-cycle learning rate, weight decay on everything but BatchNorm and biases."""
    generator = torch.Generator().manual_seed(seed)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 5e-4}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    batch, steps, step = 128, epochs * (len(x) // 128), 0
    for epoch in range(epochs):
        model.train()
        started, order, losses = time.monotonic(), torch.randperm(len(x), generator=generator), []
        for i in range(0, len(x) - batch + 1, batch):
            for group in optimizer.param_groups:
                group["lr"] = one_cycle(step, steps, 0.2)
            index = order[i : i + batch]
            images = augment(x[index], generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images)
            loss = F.cross_entropy(logits.float(), y[index], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
        accuracy, seconds = top1(model, *test), time.monotonic() - started
        summary = f"loss {np.mean(losses):.4f} test top-1 {accuracy:.4f} {seconds:.0f} s"
        print(f"epoch {epoch + 1}/{epochs} {summary}", flush=True)


def balanced(y: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """`count` indices with the classes as equal as possible, in random order."""
    order = generator.permutation(len(y))
    per_class = [order[y[order] == c] for c in range(10)]
    picked = [per_class[i % 10][i // 10] for i in range(count)]
    return generator.permutation(np.array(picked))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("models/pretrained"))
    parser.add_argument("--images", type=Path, default=Path("calibration/images"))
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    preprocessing = definition(NAME).preprocessing
    (train_x, train_y), (test_x, test_y) = load_split(args.data, "train"), load_split(args.data, "t10k")

    def tensors(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(preprocessing.normalize(x)), torch.from_numpy(y.astype(np.int64))

    test = tensors(test_x, test_y)
    model = definition(NAME).build().to(memory_format=torch.channels_last)
    train(model, *tensors(train_x, train_y), test, args.epochs, args.seed)
    accuracy = top1(model, *test)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    metadata = {"model": NAME, "data": "Fashion-MNIST", "test_top1": f"{accuracy:.4f}", "epochs": str(args.epochs)}
    save_file(state, args.out / f"{NAME}.safetensors", metadata=metadata)

    generator = np.random.default_rng(args.seed)
    for split, (x, y), count in (("calib", (train_x, train_y), 256), ("test", (test_x, test_y), 2000)):
        index = balanced(y, count, generator)
        np.savez_compressed(args.images / f"fashion_{split}.npz", x=x[index], y=y[index])
    print(f"test top-1 on {len(test_y)} images: {accuracy:.4f}")


if __name__ == "__main__":
    main()
