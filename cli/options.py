"""Options and argument types shared by the commands."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from resnetrt.errors import UsageError
from resnetrt.settings import changed_environment

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:

    class _ParamType(click.ParamType[Any]):
        """click's `ParamType` is generic at run time only from click 8.4 on."""
else:
    _ParamType = click.ParamType

bundle_argument: Callable[[F], F] = click.argument("bundle", type=click.Path(path_type=Path))
json_option: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


def given_options(ctx: click.Context, *names: str) -> list[str]:
    """Those of the parameters `names` that were given on the command line, as written there, such as `--count`."""
    sources = {
        item.opts[0]: ctx.get_parameter_source(item.name or "") for item in ctx.command.params if item.name in names
    }
    return [written for written, source in sources.items() if source is ParameterSource.COMMANDLINE]


def input_option(help_text: str) -> Callable[[F], F]:
    """`--input`: whether a variant takes normalised images or frames."""
    kinds = click.Choice(["float32", "uint8"])
    return click.option("--input", "input_type", type=kinds, default="float32", show_default=True, help=help_text)


min_share_option: Callable[[F], F] = click.option(
    "--min-share",
    type=click.FloatRange(0, 1),
    default=0.5,  # equal to MIN_SHARE of the compilers, which is not imported because it needs numpy; a test pins it
    show_default=True,
    help="Least share of an engine's work in its own precision; 0 keeps any engine.",
)


def _use_device(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    """Put the device where the settings are read, also in processes that the command starts; undone at its end.

    A MIG instance is seen by a process only if CUDA finds it in its own variable when it starts. Numbers are those of
    nvidia-smi, unless the user has chosen another order.
    """
    if value is None:
        return
    order = os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # CUDA's own is the fastest first
    chosen = {"RESNETRT_DEVICE": value, "CUDA_DEVICE_ORDER": order}
    chosen |= {"CUDA_VISIBLE_DEVICES": value} if value.startswith("MIG-") else {}
    ctx.with_resource(changed_environment(chosen))


device_option: Callable[[F], F] = click.option(
    "--device",
    callback=_use_device,
    expose_value=False,
    is_eager=True,
    help="GPU for engines that need one: number, UUID or MIG-..., as nvidia-smi -L lists them. Default: the first.",
)


class CommaList(_ParamType):
    """A comma-separated list whose items `convert_item` parses, such as `--batches 1,8`."""

    def __init__(self, convert_item: Callable[[str], Any], name: str) -> None:
        self._convert_item = convert_item
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A tuple of items; `BadParameter` names the item that does not parse."""
        if not isinstance(value, str):
            return value
        items = [item.strip() for item in value.split(",") if item.strip()]
        try:
            parsed = tuple(self._convert_item(item) for item in items)
        except ValueError:
            self.fail(f"expected {self.name} separated by commas, found {value!r}", param, ctx)
        if not parsed:
            self.fail(f"expected at least one of {self.name}, found {value!r}", param, ctx)
        return parsed


def positive(text: str) -> int:
    """A positive integer."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


class _NewPath(_ParamType):
    """A path to write to; the folder that it lies in must exist, since a missing one is more often a typing error."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A `Path`; `BadParameter` names the folder that is missing."""
        path = Path(value)
        folder = path.absolute().parent
        if not folder.is_dir():
            what = "a file" if folder.exists() else "no folder"
            self.fail(
                f"{path}: expected a path in a folder that exists, found {what} {folder}; make that first", param, ctx
            )
        return path


class _Instances(_ParamType):
    """A positive number, or `auto`."""

    name = "number|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """An int, or the word `auto`."""
        if value == "auto" or isinstance(value, int):
            return value
        try:
            return positive(value)
        except ValueError:
            self.fail(f"expected a positive number or auto, found {value!r}", param, ctx)


INSTANCES = _Instances()
NEW_PATH = _NewPath()
INTEGERS = CommaList(positive, "positive integers")
FLOATS = CommaList(float, "numbers")
WORDS = CommaList(str, "words")


class SectionedCommand(click.Command):
    """A command whose long list of options stands in sections of its help, each under a title."""

    def __init__(self, *args: Any, sections: Mapping[str, str], **given: Any) -> None:
        """`sections`: the first option of each section, such as `--weights`, and the title above it."""
        super().__init__(*args, **given)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in their order, a section for each title."""
        rows: dict[str, list[tuple[str, str]]] = {}
        title = "Options"
        for parameter in self.get_params(ctx):
            if not isinstance(parameter, click.Option):
                continue
            title = next((self.sections[name] for name in parameter.opts if name in self.sections), title)
            record = parameter.get_help_record(ctx)
            if record is not None:
                rows.setdefault(title, []).append(record)
        for title, options in rows.items():
            with formatter.section(title):
                formatter.write_dl(options)


_MODEL_OPTIONS: list[Callable[[Any], Any]] = [
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        help="Weights: .safetensors (or its .index.json), .pth, .ckpt; FILE#model_ema takes that set of several.",
    ),
    click.option("--num-classes", type=click.IntRange(1), help="Outputs of the classifier."),
    click.option("--in-channels", type=click.IntRange(1), help="Channels of the input."),
    click.option(
        "--shortcut", type=click.Choice(["projection", "pad", "none"]), help="How a block's shape change is bridged."
    ),
    click.option("--stem", type=click.Choice(["imagenet", "small"]), help="First layers, for 224x224 or small images."),
    click.option("--stride-in-1x1", is_flag=True, default=None, help="Bottleneck v1: the stride in the first 1x1."),
    click.option("--width", type=click.IntRange(1), help="Bottleneck width per group (64 is the plain ResNet)."),
    click.option("--groups", type=click.IntRange(1), help="Groups of the 3x3 convolutions (ResNeXt)."),
]

_IMAGE_OPTIONS: list[Callable[[Any], Any]] = [
    click.option("--labels", "labels_file", type=click.Path(path_type=Path), help="Class names, one a line."),
    click.option(
        "--recipe",
        type=click.Path(path_type=Path),
        help="JSON file with the preprocessing: a bundle's manifest, timm's config.json, or torchvision's transforms.",
    ),
    click.option("--size", type=click.IntRange(1), help="Input height and width."),
    click.option("--resize", type=click.IntRange(1), help="Shorter side before the centre crop."),
    click.option("--mean", type=FLOATS, help="Mean per channel of pixels/255."),
    click.option("--std", type=FLOATS, help="Standard deviation per channel of pixels/255."),
    click.option("--opset", type=click.IntRange(18, 25), default=20, show_default=True, help="Opset of the ONNX file."),
]

_QUANTIZE_OPTIONS: list[Callable[[Any], Any]] = [
    click.option(
        "--method", default="mse", show_default=True, help="Ranges: minmax, moving_average, percentile, entropy or mse."
    ),
    click.option(
        "--weights-method", default="amax", show_default=True, help="Weights' ranges per channel: amax or mse."
    ),
    click.option("--no-bias-correction", is_flag=True, help="Leave biases as they are."),
    click.option(
        "--reduce-range/--full-range",
        default=None,
        help="7-bit weights, for CPUs that saturate (no VNNI). Default: where this one does, for dialects of the CPU.",
    ),
    click.option(
        "--rounding-budget",
        type=click.FloatRange(0, min_open=True),
        default=120.0,
        show_default=True,
        help="Seconds of --learn-rounding for a variant; layers not reached are rounded to nearest.",
    ),
]

_TENSORRT_OPTIONS: list[Callable[[Any], Any]] = [
    click.option(
        "--profiles",
        help="Batch sizes min:opt:max, several with commas. Default: 1,1:8:32, so tuned for 1 and for 8.",
    ),
    click.option("--workspace-mib", type=int, help="Limit of scratch memory."),
    click.option(
        "--builder-optimization-level", type=int, help="0 to 5: how long the builder searches for fast kernels."
    ),
    click.option("--timing-cache", help="File of timings to share. Default: in ~/.cache/resnetrt; or none."),
    click.option(
        "--version-compatible", is_flag=True, help="Load in later TensorRT versions too, also in 11 if made by 10."
    ),
    click.option("--hardware-compatible", help="Also other GPUs: ampere_plus or same_compute_capability."),
    click.option("--dla-core", type=int, help="On a Jetson: compile for this DLA core."),
    click.option("--gpu-fallback", is_flag=True, help="What the DLA lacks runs on the GPU."),
    click.option("--sparse-weights", is_flag=True, help="Sparse kernels where two of four weights are zero."),
    click.option("--aux-streams", type=int, help="CUDA streams beside the main one on which layers may run; 0: none."),
    click.option("--tf32", is_flag=True, help="FP32 layers may round to TF32."),
]


def with_options(options: Sequence[Callable[[Any], Any]]) -> Callable[[F], F]:
    """A decorator that adds `options` to a command, in this order in its help."""

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


model_options = with_options(_MODEL_OPTIONS)  # that select a network's weights and shape
quantize_options = with_options(_QUANTIZE_OPTIONS)  # that say how INT8 is made
tensorrt_options = with_options(_TENSORRT_OPTIONS)  # fields of `TensorRTOptions`


def set_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that were given: neither None nor a flag that is off; 0 is given."""
    return {name: value for name, value in options.items() if value is not None and value is not False}


def export_options(golden_help: str, golden_default: str | None) -> Callable[[F], F]:
    """`model_options`, and those that say how images are prepared and what is stored with the export."""
    golden = click.option("--golden-data", default=golden_default, show_default=True, help=golden_help)
    count = click.option(
        "--golden-count", type=click.IntRange(16, 64), default=32, show_default=True, help="How many of them."
    )
    return with_options([*_MODEL_OPTIONS, golden, count, *_IMAGE_OPTIONS])


def read_labels(path: Path | None) -> tuple[str, ...]:
    """Class names from a text file, one per line; none without a path. Raises `UsageError` for an unreadable file."""
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--labels {path}: expected a text file with one class a line, found {error}") from error
    return tuple(line.strip() for line in lines if line.strip())
