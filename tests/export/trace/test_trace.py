"""Names, shapes and bytes of traced files, and one clear line for modules that can't be traced."""

import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_models
import torch
from small_models import Chain, randomize, trace_to_onnx
from torch import Tensor, nn

from resnetrt.errors import CheckFailed
from resnetrt.export.fold.graph import trace
from resnetrt.export.trace.quiet import first_cause, quiet
from resnetrt.export.variants.lint import lint
from resnetrt.export.variants.parity import run_onnx

SmallOnnx = Callable[[str], Path]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, -1)


class Raising(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("boom\nand more")


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x.mean(1)).real


@pytest.mark.parametrize("kind", small_models.CONFIGS)
def test_names_say_which_module_a_node_belongs_to(small_onnx: SmallOnnx, kind: str):
    graph = onnx.load(small_onnx(kind)).graph
    modules = {name for name, _ in small_models.build(kind).named_modules()}
    for node in graph.node:
        own = node.name if node.op_type in ("Conv", "Gemm") else node.name.rpartition(".")[0]
        assert own in modules, node.name
    convs = {node.name for node in graph.node if node.op_type == "Conv"}
    layers = small_models.build(kind).named_modules()
    assert convs == {name for name, layer in layers if isinstance(layer, nn.Conv2d)}


@pytest.mark.parametrize("kind", small_models.CONFIGS)
def test_names_are_unique_and_outputs_bear_the_names_of_their_nodes(small_onnx: SmallOnnx, kind: str):
    graph = onnx.load(small_onnx(kind)).graph
    names = [node.name for node in graph.node]
    values = [value for node in graph.node for value in node.output] + [tensor.name for tensor in graph.initializer]
    assert len(set(names)) == len(names)
    assert len(set(values)) == len(values)
    assert all(node.output[0] in (node.name, "logits") for node in graph.node)


@pytest.mark.parametrize("kind", small_models.CONFIGS)
def test_interface(small_onnx: SmallOnnx, kind: str):
    graph = onnx.load(small_onnx(kind)).graph
    (image,), (logits,) = graph.input, graph.output
    dims = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in (image, logits)]
    assert (image.name, logits.name) == ("input", "logits")
    assert dims == [["batch", *small_models.SHAPES[kind]], ["batch", small_models.CLASSES]]


@pytest.mark.parametrize("kind", small_models.CONFIGS)
def test_traced_files_pass_the_lint_and_equal_eager(small_onnx: SmallOnnx, kind: str):
    lint(small_onnx(kind))
    images = small_models.pictures(kind, 5)
    with torch.no_grad():
        expected = small_models.build(kind)(images).numpy()
    np.testing.assert_allclose(run_onnx(small_onnx(kind), images.numpy()), expected, atol=1e-4, rtol=0)


def test_intermediate_shapes_are_known(small_onnx: SmallOnnx):
    graph = onnx.load(small_onnx("projection")).graph
    known = {value.name for value in graph.value_info} | {"logits"}
    assert {output for node in graph.node for output in node.output} <= known


def test_nothing_of_the_machine_is_left_in_the_file(small_onnx: SmallOnnx):
    model = onnx.load(small_onnx("pad"))
    assert not model.metadata_props
    assert not any(item.metadata_props or item.doc_string for item in (model.graph, *model.graph.node))
    blob = small_onnx("pad").read_bytes()
    for trace_of in (b"small_models", b"site-packages", b"/tmp", b"stack_trace", Path(__file__).parent.name.encode()):
        assert trace_of not in blob


def test_another_process_exports_the_same_bytes(tmp_path: Path):
    script = (
        "import hashlib, sys, small_models; from pathlib import Path; from torch import nn\n"
        "from small_models import trace_to_onnx\n"
        "net = small_models.randomize(small_models.Chain(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)))\n"
        "trace_to_onnx(net, (3, 8, 8), Path(sys.argv[1]))\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": "4", "PYTHONPATH": str(Path(small_models.__file__).parent)}
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "theirs.onnx")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    net = randomize(Chain(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)))
    trace_to_onnx(net, (3, 8, 8), tmp_path / "ours.onnx")
    ours, theirs = (hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in ("ours.onnx", "theirs.onnx"))
    assert ours == theirs
    assert done.stdout + done.stderr == ""


def test_opset_is_the_one_asked_for(tmp_path: Path):
    path = tmp_path / "net.onnx"
    trace_to_onnx(randomize(Chain(nn.Conv2d(3, 4, 3))), (3, 8, 8), path, opset=23)
    assert [entry.version for entry in onnx.load(path).opset_import if not entry.domain] == [23]
    lint(path)


def test_layers_without_bias_get_one_of_zeros(tmp_path: Path):
    """The exporter drops zero biases; an untrained network has nothing else."""
    path = tmp_path / "net.onnx"
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5, bias=False), nn.Unflatten(1, (5, 1)))
    net = Chain(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 1), *pooled).eval()
    nn.init.zeros_(net.layers[2].bias)
    trace_to_onnx(net, (3, 8, 8), path)
    lint(path)
    layers = [node for node in onnx.load(path).graph.node if node.op_type in ("Conv", "Gemm")]
    assert [len(node.input) for node in layers] == [3, 3, 3]
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        np.testing.assert_allclose(run_onnx(path, images.numpy()), net(images).numpy(), atol=1e-5)


def assert_slices(net: nn.Module, path: Path) -> None:
    """The file at `path`, which is written, pads by slices and computes what `net` does."""
    trace_to_onnx(net, (3, 8, 10), path)
    assert "Pad" not in {node.op_type for node in onnx.load(path).graph.node}
    images = torch.randn(3, 3, 8, 10)
    with torch.no_grad():
        np.testing.assert_allclose(run_onnx(path, images.numpy()), net(images).numpy(), atol=1e-5)


@pytest.mark.parametrize("padding", [(1, 2), (0, 1), (0, 0)])
def test_circular_padding_is_slices_that_every_backend_takes(padding: tuple[int, int], tmp_path: Path):
    torch.manual_seed(0)
    kernel = tuple(2 * size + 1 for size in padding)
    net = Chain(nn.Conv2d(3, 4, kernel, padding=padding, padding_mode="circular"), nn.ReLU()).eval()
    assert_slices(net, tmp_path / "circular.onnx")


class Padded(nn.Module):
    """Pads in a circle, then has a layer that counts on the size."""

    def __init__(self, amounts: tuple[int, ...], size: int) -> None:
        super().__init__()
        self.amounts = amounts
        self.fc = nn.Linear(size, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(nn.functional.pad(x, self.amounts, mode="circular").flatten(1))


@pytest.mark.parametrize(
    "amounts", [(-1, 1, 0, 0), (2, -3, 0, 0), (-1, -2, 1, 0), (0, -1, 0, 0), (-2, 0, -1, 3), (3, -1, -2, 2)]
)
def test_circular_padding_that_also_cuts_off_is_slices_too(amounts: tuple[int, int, int, int], tmp_path: Path):
    """What is put behind is taken from what the cut left, as eager does it."""
    torch.manual_seed(0)
    net = Padded(amounts, 3 * (10 + sum(amounts[:2])) * (8 + sum(amounts[2:]))).eval()
    assert_slices(net, tmp_path / "circular.onnx")


class Wrapper(nn.Module):
    """Passes everything on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return self.model(*args, **kwargs)


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.4).div_(0.3)
        return x.mean((2, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Wrapper(Chain(nn.Conv2d(3, 4, 3))),
        lambda: torch.optim.swa_utils.AveragedModel(Chain(nn.Conv2d(3, 4, 3))),
        lambda: nn.DataParallel(Chain(nn.Conv2d(3, 4, 3))),
        InPlace,
    ],
)
def test_wrappers_and_networks_that_change_their_input(make: Callable[[], nn.Module], tmp_path: Path):
    net, images = randomize(make()), torch.randn(3, 3, 8, 8)
    trace_to_onnx(net, (3, 8, 8), tmp_path / "net.onnx")
    lint(tmp_path / "net.onnx")
    assert [value.name for value in onnx.load(tmp_path / "net.onnx").graph.output] == ["logits"]
    with torch.no_grad():
        expected = net(images.clone()).numpy()
    np.testing.assert_allclose(run_onnx(tmp_path / "net.onnx", images.numpy()), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            Branching,
            r"tracing Branching with input \(2, 3, 8, 8\) failed: Could not guard on data-dependent",
        ),
        (
            FixedBatch,
            r"tracing FixedBatch .* failed: Constraints violated \(batch\): You .* a constant \(2\); .*work for any N",
        ),
        (Raising, r"tracing Raising .* failed: boom; forward must take one \(N, C, H, W\) tensor"),
        (Eigenvalues, r"translating Eigenvalues to ONNX opset 20 failed: ONNX has nothing for aten.linalg_eig"),
    ],
)
def test_what_can_not_be_exported_is_one_clear_line(
    make: Callable[[], nn.Module], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with pytest.raises(CheckFailed, match=message) as caught:
        trace_to_onnx(make(), (3, 8, 8), tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "net.onnx").exists()


def test_a_module_that_takes_two_inputs(tmp_path: Path):
    with pytest.raises(CheckFailed, match=r"tracing Bilinear with input .* failed: .*forward must take one"):
        trace_to_onnx(nn.Bilinear(2, 2, 2), (3, 8, 8), tmp_path / "net.onnx")


def test_tracing_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    trace_to_onnx(Chain(nn.Conv2d(3, 4, 3)).eval(), (3, 8, 8), tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")


def test_full_disk(full_disk: Path):
    with pytest.raises(OSError, match="No space left"):
        trace_to_onnx(Chain(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 1024, 5)).eval(), (3, 8, 8), full_disk / "net.onnx")


def test_trace_has_a_symbolic_batch():
    program = trace(Chain(nn.Conv2d(3, 4, 3)).eval(), torch.zeros(2, 3, 8, 8))
    ((_, limits),) = program.range_constraints.items()
    assert (limits.lower, limits.upper) == (1, 4096)


def test_quiet_is_over_afterwards(capsys: pytest.CaptureFixture[str]):
    log = logging.getLogger("torch.onnx")

    def fail() -> None:
        with quiet():
            print("hidden")
            log.warning("hidden")
            raise ValueError("inner")

    with pytest.raises(ValueError, match="inner"):
        fail()
    assert log.isEnabledFor(logging.WARNING)
    print("shown")
    assert capsys.readouterr() == ("shown\n", "")


def test_an_operator_without_translation_is_named(tmp_path: Path):
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveMaxPool2d(3), nn.Flatten(), nn.Linear(36, 2))
    with pytest.raises(CheckFailed, match=r"ONNX has nothing for aten.adaptive_max_pool2d as it is used here$"):
        trace_to_onnx(module, (3, 8, 8), tmp_path / "pool.onnx")


def test_first_cause_is_the_innermost_without_colours():
    inner, outer = ValueError("\n \x1b[96mreal reason\x1b[0m\nmore"), RuntimeError("advice")
    outer.__cause__ = inner
    assert first_cause(outer) == "real reason"
    assert first_cause(KeyError()) == "KeyError"
