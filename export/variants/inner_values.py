"""Values from inside an ONNX graph, by ONNX Runtime on the CPU."""

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt
import onnx

from resnetrt.settings import read_settings

Array = npt.NDArray[Any]


class InnerValues:
    """A session that returns the named values of `model` beside its outputs; `model` is left as it is.

    Inputs among the names are no outputs of ONNX Runtime; `of` returns them all the same.

    `as_written`: without graph optimizations, so that Q/DQ run as they stand. Raises whatever ONNX Runtime does for a
    name that the graph does not have.
    """

    def __init__(self, model: onnx.ModelProto, names: Iterable[str], as_written: bool = True) -> None:
        import onnxruntime

        count = len(model.graph.output)
        present = {value.name for value in (*model.graph.input, *model.graph.output)}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(set(names) - present))
        try:
            blob = model.SerializeToString()
        finally:
            del model.graph.output[count:]
        options = onnxruntime.SessionOptions()
        if as_written:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = read_settings().threads
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self.input_name: str = self._session.get_inputs()[0].name

    def run(self, feed: dict[str, Array]) -> dict[str, Array]:
        """The model's outputs and the named values, for inputs by name."""
        return dict(zip(self._names, self._session.run(self._names, feed), strict=True))

    def of(self, batch: Array) -> dict[str, Array]:
        """`run` of a model with one input; the batch is among the values, under the input's name."""
        return {self.input_name: batch} | self.run({self.input_name: batch})
