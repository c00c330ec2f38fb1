"""Parse an ONNX file into a strongly typed TensorRT network, and ask beforehand which nodes the parser supports."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnetrt.errors import BackendRefused, CheckFailed, UsageError
from resnetrt.export.compilers.tensorrt.flavour import Flavour
from resnetrt.export.compilers.tensorrt.log import advice
from resnetrt.runtime.backends.tensorrt_logger import Lines, clean, first_error, logger_of, make


@dataclass(frozen=True)
class ParsedNetwork:
    """A network and all that it needs to stay alive: TensorRT crashes if one of these is collected before another."""

    logger: Any
    builder: Any
    network: Any
    parser: Any
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class UnsupportedNode:
    """An ONNX node that the parser refuses, and why."""

    node: str
    op: str
    reason: str


def parse(trt: Any, path: Path) -> ParsedNetwork:
    """The network of the ONNX file at `path`. Raises `BackendRefused` naming the first node that TensorRT refuses."""
    logger = logger_of(trt)
    with logger.recorded() as lines:
        builder, network, parser = _new_parser(trt, logger)
        if not parser.parse_from_file(str(path)):
            problems = _errors(parser)
            raise BackendRefused(f"{path.name}: parsing failed: {_describe(problems, lines)}")
        if parser.num_errors or first_error(lines):
            raise CheckFailed(f"{path.name}: parsing ended with errors: {_describe(_errors(parser), lines)}")
    return ParsedNetwork(logger, builder, network, parser, _node_names(network))


def check_model(path: Path, flavour: Flavour) -> list[UnsupportedNode]:
    """The nodes of the ONNX file at `path` that the parser of `flavour` refuses; nothing is built.

    Raises `UsageError` if the file is no ONNX model, `BackendMissing` if TensorRT is not here.
    """
    trt = flavour.load()
    logger = logger_of(trt)
    with logger.recorded() as lines:
        builder, network, parser = _new_parser(trt, logger)
        supported = parser.supports_model_v2(path.read_bytes())
        problems = _errors(parser)
    del builder, network
    if not supported and not problems:
        raise UsageError(f"{path.name}: {trt.__name__} can't read it: {first_error(lines) or 'no reason was given'}")
    return problems


def _new_parser(trt: Any, logger: Any) -> tuple[Any, Any, Any]:
    builder = make(trt.Builder, logger)
    # bit 1 in TensorRT 10, bit 0 and always on in 11 and RTX
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    return builder, network, trt.OnnxParser(network, logger)


def _errors(parser: Any) -> list[UnsupportedNode]:
    errors = (parser.get_error(index) for index in range(parser.num_errors))
    return [UnsupportedNode(str(e.node_name()), str(e.node_operator()), clean(str(e.desc()))) for e in errors]


def _describe(problems: list[UnsupportedNode], lines: Lines) -> str:
    if not problems:
        text = first_error(lines) or "TensorRT gave no reason"
        return f"{text}{advice(text)}"
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"ONNX node {first.node} ({first.op}): {first.reason}{more}{advice(f'{first.op} {first.reason}')}"


def _node_names(network: Any) -> tuple[str, ...]:
    """Names of the ONNX nodes, from the layers' metadata."""
    texts = (str(network.get_layer(index).metadata) for index in range(network.num_layers))
    return tuple(dict.fromkeys(text.removeprefix("[ONNX Layer: ").removesuffix("]") for text in texts if text))
