"""What to compare, and on which networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.peers.tools import TOOLS, Tool
from resnetrt.benchmarks.verify.prepare import prepare_export
from resnetrt.bundle import Bundle
from resnetrt.errors import UsageError, WeightsError
from resnetrt.export.fp32.export import export_bundle

STEPS = ("calibration", "fidelity", "latency", "frames")
DEPTH_STEPS = ("latency", "frames")  # the depths have random weights
# the tools worth timing on large networks: one for each kind of graph
DEPTH_TOOLS = (
    "nncf-performance",
    "nncf-mixed",
    "ort-int8-minmax",
    "ort-uint8-minmax",
    *(name for name, tool in TOOLS.items() if tool.package == "resnetrt" and not name.endswith("-learned")),
)


@dataclass(frozen=True)
class PeersRequest:
    """`networks` are trained, with weights in `weights_dir` (None: the shipped ones); `depths` are only timed.

    `calib` and `eval_data` are data sets for the trained networks, `depth_calib` is one for the depths. `more_samples`
    is a second number of images for this project's calibration. Empty `tools` means all installed tools.
    """

    networks: Sequence[str] = ()
    weights_dir: Path | None = None
    calib: str = "fashion_calib"
    eval_data: str = "fashion_test"
    samples: int = 512
    eval_samples: int = 2500
    more_samples: int | None = None
    depths: Sequence[int] = ()
    depth_calib: str = "fashion_calib"
    depth_samples: int = 16
    tools: Sequence[str] = ()
    steps: Sequence[str] = STEPS
    batches: Sequence[int] = (1, 8)
    rounds: int = 11
    min_block_s: float = 0.1
    repeats: int = 3
    threads: int = 2
    work: Path = Path("build/peers")

    def __post_init__(self) -> None:
        for step in self.steps:
            if step not in STEPS:
                raise UsageError.unknown("step", step, STEPS)
        for tool in self.tools:
            if tool not in TOOLS:
                raise UsageError.unknown("tool", tool, TOOLS)


@dataclass(frozen=True)
class FloatNetwork:
    """One network as a bundle with `fp32.onnx` only; `weights` is None for shipped or random weights."""

    bundle: Bundle
    weights: Path | None
    calib: str
    samples: int
    steps: tuple[str, ...]
    tools: tuple[Tool, ...]

    @property
    def name(self) -> str:
        """The network's name."""
        return self.bundle.manifest.name

    @property
    def folder(self) -> Path:
        """The folder for everything made from this network."""
        return self.bundle.path.parent


def open_subject(request: PeersRequest, network: str | int) -> FloatNetwork:
    """Export a trained network (a name) or a random one (a depth) to a new bundle in the work folder."""
    name = network if isinstance(network, str) else f"resnet{network}"
    trained = isinstance(network, str)
    weights = find_weights(request.weights_dir, name) if trained else None
    golden: dict[str, Any] = {"golden_data": request.eval_data} if trained else {"golden_count": 9}
    path = request.work.resolve() / name / "base.bundle"
    path.parent.mkdir(parents=True, exist_ok=True)
    bundle, _ = export_bundle(prepare_export(name, weights, **golden), path, overwrite=True)
    wanted = tuple(request.tools) or (tuple(TOOLS) if trained else DEPTH_TOOLS)
    tools = tuple(TOOLS[tool] for tool in wanted if trained or tool in DEPTH_TOOLS)
    possible = STEPS if trained else DEPTH_STEPS
    calib = request.calib if trained else request.depth_calib
    return FloatNetwork(
        bundle,
        weights,
        str(Path(calib).resolve()) if Path(calib).exists() else calib,  # tools run in their own folders
        request.samples if trained else request.depth_samples,
        tuple(step for step in possible if step in request.steps),
        tools,
    )


def find_weights(folder: Path | None, network: str) -> Path | None:
    """The file in `folder` whose name ends like the network's: `cifar10-resnet20.safetensors` for `cifar_resnet20`.

    Raises `WeightsError` unless there is exactly one.
    """
    if folder is None:
        return None
    ending = network.rpartition("_")[2]
    files = sorted(path for path in folder.glob("*.safetensors") if path.stem.endswith(ending))
    if len(files) != 1:
        listed = ", ".join(path.name for path in files) or "none"
        raise WeightsError(f"weights of {network}: expected one file *{ending}.safetensors in {folder}, found {listed}")
    return files[0]
