"""The values inside an eager module that correspond to tensors of its ONNX file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from resnetrt.preprocess import FloatArray

Features = Mapping[str, npt.NDArray[np.float64]]
_CLAMPS = {
    *("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "threshold"),
    *("clamp", "clamp_", "clamp_min", "clamp_min_"),
}
# eager's operators for ONNX operators that our rewrites neither add nor remove; a Clip and a Relu become one Clip
_OPERATORS = {"Add": {"add", "add_"}, "Relu": _CLAMPS, "Clip": _CLAMPS}


def eager_features(
    module: nn.Module, path: Path, images: FloatArray, exported: Features, logits: str
) -> dict[str, npt.NDArray[np.float64]]:
    """The values in `module` that correspond to the tensors `exported` of the ONNX file at `path`, by name.

    For each tensor this is the nearest of all values of its shape; for a residual add or activation, only values of the
    same operator count. So a folded convolution is compared with the output of its BatchNorm, wherever that is, and
    each call of a shared module with the same call. A tensor is left out if no value of the module has its shape.
    `logits`, if asked for, is the output.
    """
    graph = onnx.load(path).graph
    constants = {item.name for item in graph.initializer}
    # eager's matrix product adds the bias itself
    operators = {
        output: "bias" if node.op_type == "Add" and constants.intersection(node.input) else node.op_type
        for node in graph.node
        for output in node.output
    }
    nearest = _Nearest(exported, operators)
    with torch.no_grad(), nearest:
        output = module(torch.tensor(images))  # a copy: a module may write into its input
    features = nearest.values()
    return features | {logits: np.asarray(output, np.float64)} if logits in exported else features


class _Nearest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each value when it is computed, before any in-place change, and keeps the nearest ones."""

    def __init__(self, exported: Features, operators: Mapping[str, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._wanted: dict[tuple[int, ...], list[str]] = {}
        for name, value in exported.items():
            self._wanted.setdefault(value.shape, []).append(name)
        self._targets = {name: torch.from_numpy(value) for name, value in exported.items()}
        self._operators = {name: _OPERATORS.get(operators[name]) for name in exported}
        self._found: dict[str, tuple[float, Tensor]] = {}

    def values(self) -> dict[str, npt.NDArray[np.float64]]:
        """The nearest values by name."""
        return {name: value.numpy() for name, (_, value) in self._found.items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `torch.utils._python_dispatch.TorchDispatchMode`."""
        computed = func(*args, **(kwargs or {}))
        for value in computed if isinstance(computed, (tuple, list)) else (computed,):
            if isinstance(value, Tensor) and value.is_floating_point():
                self._compare(func.overloadpacket.__name__, value)
        return computed

    def _compare(self, operator: str, value: Tensor) -> None:
        for name in self._wanted.get(tuple(value.shape), ()):
            allowed = self._operators[name]
            if allowed is None or operator in allowed:
                exact = value.detach().double()
                error = float((exact - self._targets[name]).square().sum())
                if name not in self._found or error < self._found[name][0]:
                    self._found[name] = error, exact.clone()
