"""Runs an ONNX Runtime session from and to fixed memory of its GPU, with a CUDA graph for usual sizes of batch.

`InferenceSession.run` allocates on the GPU at each call. A graph starts all kernels at once, but has fixed addresses:
the input is copied to where it was when the graph was captured.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnetrt.parts import import_part
from resnetrt.runtime.session import Array, Outputs
from resnetrt.tensor_spec import TensorSpec

_GRAPH_ID = "gpu_graph_id"  # of a run: graphs of this number, which is the size of the batch; -1 is none
_NO_GRAPH = -1
# A graph and its memory are kept as long as the session, so there are few; the kernels of larger batches take so long
# that starting them one by one costs little.
_GRAPH_SIZES = frozenset({1, 2, 4, 8, 16, 32})
_OTHERS = 4  # sizes without a graph that keep their memory, those used last
_log = logging.getLogger("resnetrt.runtime")


def can_bind(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Whether the size of every tensor is known from that of the batch."""
    return all(axis is not None for spec in (*inputs, *outputs) for axis in spec.shape[1:])


class Bound:
    """A session with one input, for one thread at a time. `device` is its kind for ONNX Runtime and its number.

    With `graphs` the session was made with CUDA graphs enabled. A size whose graph fails is run without one.
    """

    def __init__(
        self,
        native: Any,
        image: TensorSpec,
        outputs: Sequence[TensorSpec],
        device: tuple[str, int],
        graphs: bool,
        what: str,
    ) -> None:
        self._ort, self._native = import_part("onnxruntime", "backend onnxruntime"), native
        self._image, self._outputs, self._device = image, outputs, device
        self._graphs, self._what = graphs, what
        self._slots: OrderedDict[int, _Slot] = OrderedDict()

    def run(self, batch: Array) -> Outputs:
        """Outputs of a batch; the arrays are new."""
        count = len(batch)
        slot = self._slot(count)
        slot.image.update_inplace(np.ascontiguousarray(batch))
        try:
            self._native.run_with_iobinding(slot.binding, slot.options)
        except Exception as error:
            if not slot.graph:
                raise
            slot.options, slot.graph = self._options(_NO_GRAPH), False
            self._native.run_with_iobinding(slot.binding, slot.options)  # a device that is lost shows here
            _log.warning("%s: no CUDA graph for %d images: %s", self._what, count, " ".join(str(error).split())[:200])
        return {spec.name: self._copy(value) for spec, value in zip(self._outputs, slot.outputs, strict=True)}

    def _copy(self, value: Any) -> Array:
        """A new array; of memory on the host ONNX Runtime gives a view."""
        array: Array = value.numpy()
        return array.copy() if self._device[0] == "cpu" else array

    def _slot(self, count: int) -> "_Slot":
        slot = self._slots.get(count)
        if slot is None:
            slot = self._slots[count] = self._make(count)
            others = [size for size, made in self._slots.items() if not made.graph]
            for size in others[:-_OTHERS]:
                del self._slots[size]
        self._slots.move_to_end(count)
        return slot

    def _make(self, count: int) -> "_Slot":
        graph = self._graphs and count in _GRAPH_SIZES
        binding, image = self._native.io_binding(), self._value(self._image, count)
        outputs = [self._value(spec, count) for spec in self._outputs]
        binding.bind_ortvalue_input(self._image.name, image)
        for spec, value in zip(self._outputs, outputs, strict=True):
            binding.bind_ortvalue_output(spec.name, value)
        return _Slot(binding, image, outputs, self._options(count if graph else _NO_GRAPH), graph)

    def _value(self, spec: TensorSpec, count: int) -> Any:
        shape = (count, *spec.shape[1:])
        return self._ort.OrtValue.ortvalue_from_shape_and_type(shape, np.dtype(spec.dtype), *self._device)

    def _options(self, graph: int) -> Any:
        options = self._ort.RunOptions()
        if self._graphs:
            options.add_run_config_entry(_GRAPH_ID, str(graph))
        return options


@dataclass
class _Slot:
    """What is kept for one size of batch."""

    binding: Any
    image: Any
    outputs: list[Any]
    options: Any
    graph: bool
