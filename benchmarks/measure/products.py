"""What the peaks of CPU and GPU share: a chain of matrix products as an ONNX file, its session, the best rates."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from resnetrt.export.compilers import find_compiler
from resnetrt.parts import import_part
from resnetrt.runtime.backends import find_backend
from resnetrt.runtime.session import Session

_OPSET = 20
_NO_OPTIONS: Mapping[str, Any] = {}


class _Product(TypedDict):
    backend: str
    precision: str
    gops: float | None


class ProductRow(_Product, total=False):
    """The rate of matrix products; `shape` is the fastest on a CPU, `why` says why there is no rate."""

    shape: str
    why: str


def import_onnx() -> Any:
    """The package onnx, which writes the matrix products of the peaks; raises `BackendMissing` without it."""
    return import_part("onnx", "peaks")


def save_chain(path: Path, nodes: list[Any], weights: list[Any], shape: tuple[int, int], output: str) -> None:
    """Write the graph of `nodes` from the float32 tensor `x` to the float32 tensor `output`, both of `shape`."""
    onnx = import_onnx()
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, list(shape)) for name in ("x", output)]
    graph = helper.make_graph(nodes, "peak", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10), path)


def open_session(
    model: Path,
    backend: str,
    precision: str,
    threads: int,
    target: str = "cpu",
    options: Mapping[str, Any] = _NO_OPTIONS,
) -> Session:
    """A session of the ONNX file compiled for `target`; the engine file lies beside the ONNX file."""
    compiled = find_compiler(backend).compile_engine(model, precision, target, options)
    path = model.with_name(f"engine.{compiled.extension}")
    path.write_bytes(compiled.blob)
    record = compiled.record(f"{backend}-{precision}-peak", backend, precision, target)
    return find_backend(backend).load(path, record, threads)


def best_rates(rows: Sequence[ProductRow]) -> dict[str, float]:
    """Each precision's largest rate; `gops` is None where it could not be measured."""
    best: dict[str, float] = {}
    for row in rows:
        if row["gops"] is not None:
            best[row["precision"]] = max(best.get(row["precision"], 0.0), row["gops"])
    return best
