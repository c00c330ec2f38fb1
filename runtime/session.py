"""What every backend offers: a loaded engine that infers, profiles itself and is closed."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, NoReturn, Self

import numpy as np
import numpy.typing as npt

from resnetrt.errors import UsageError
from resnetrt.parity import Parity
from resnetrt.preprocess import Preprocessing

Array = npt.NDArray[Any]
Outputs = dict[str, Array]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: tensor name, numpy dtype name, shape with None for an axis that is free (the batch)."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        axes = ", ".join("N" if axis is None else str(axis) for axis in self.shape)
        return f"{self.name} {self.dtype} ({axes})"

    def to_json(self) -> dict[str, Any]:
        """The sidecar's record of this tensor."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


@dataclass(frozen=True)
class LayerTime:
    """Mean time of one executed layer: its name and operator as the backend calls them, milliseconds a run.

    `precision` is what it computes in, read from the backend's own report: `fp32`, `fp16`, `bf16`, `int8`, or the
    backend's word for anything else.
    """

    name: str
    op: str
    ms: float
    precision: str


class Session(ABC):
    """A loaded engine with one input. Not for several threads at once: give each thread its own session.

    `sidecar` is the engine's record (id, backend, precision, ...); `threads` how many CPU threads it uses;
    `preprocessing` the bundle's; `selftest` its agreement with the golden outputs, None while unchecked;
    `batch_limits` the smallest and largest batch, None where there is no limit; `fallbacks` says, for each engine that
    failed its self-test before this one was taken instead, why. `on_device` says whether `execution_ms` can be asked.
    """

    on_device: ClassVar[bool] = False

    def __init__(
        self, sidecar: dict[str, Any], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], threads: int
    ) -> None:
        if len(inputs) != 1:
            found = ", ".join(map(str, inputs)) or "none"
            raise UsageError(f"engine {sidecar['id']}: expected one input, found {found}")
        self.sidecar = sidecar
        self.inputs = inputs
        self.outputs = outputs
        self.threads = threads
        self.preprocessing: Preprocessing | None = None
        self.selftest: Parity | None = None
        self.fallbacks: tuple[str, ...] = ()
        self.closed = False
        self.batch_limits: tuple[int, int | None] = (inputs[0].shape[0] or 1, inputs[0].shape[0])
        self._dtype = np.dtype(inputs[0].dtype)
        self._image_shape = inputs[0].shape[1:]
        self._batch_size = inputs[0].shape[0]

    def infer(self, batch: Array) -> Outputs:
        """Run one batch; the arrays by output name are new and the caller's to keep.

        `batch` has the dtype and shape of `inputs[0]` and at least one image. It is only read, and not copied if it is
        C-contiguous and writable; the backend may refer to its memory until the next call or `close`.
        Raises `UsageError` for another dtype or shape and after `close`.
        """
        if (
            not isinstance(batch, np.ndarray)
            or batch.dtype != self._dtype
            or batch.shape[1:] != self._image_shape
            or len(batch) != (self._batch_size or len(batch) or 1)
            or self.closed
        ):
            self._refuse(batch)
        return self._infer(batch)

    def prepare(self, frames: Array) -> Array:
        """The batch for `infer` of uint8 `(N, H, W, C)` frames: the frames themselves if the engine takes uint8.

        Otherwise a new float32 `(N, C, H, W)`, preprocessed as the bundle says. Raises `UsageError` for other frames.
        """
        if self._dtype == np.uint8:
            return frames
        if self.preprocessing is None:
            raise UsageError(f"engine {self.sidecar['id']}: no preprocessing is known; load it from its bundle")
        shape = (*self.preprocessing.size, self.preprocessing.channels)
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.shape[1:] != shape:
            raise UsageError(f"frames: expected uint8 (N, {', '.join(map(str, shape))}), found {_describe(frames)}")
        return self.preprocessing.normalize(frames)

    def infer_frames(self, frames: Array) -> Outputs:
        """`infer` of uint8 `(N, H, W, C)` frames, preprocessed as the bundle says."""
        return self.infer(self.prepare(frames))

    def profile(self, batch: Array, runs: int = 10) -> list[LayerTime]:
        """Time every executed layer, mean over `runs` after warm-up, in a second, instrumented copy of the engine."""
        if runs < 1:
            raise UsageError(f"runs: expected at least 1, found {runs}")
        self.infer(batch)  # validates
        return self._profile(batch, runs)

    def execution_ms(self, count: int, runs: int = 100) -> list[float]:
        """Milliseconds of each run of a batch of `count`, copies included, by the device's own clock (CUDA events).

        Raises `UsageError` where the host computes.
        """
        raise UsageError(f"engine {self.sidecar['id']}: no device to ask for batch {count}, {runs} runs; time `infer`")

    def close(self) -> None:
        """Free the engine; further calls of `infer` raise `UsageError`. Closing twice is fine."""
        if not self.closed:
            self.closed = True
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _infer(self, batch: Array) -> Outputs:
        """Run a batch that was found valid."""

    @abstractmethod
    def _profile(self, batch: Array, runs: int) -> list[LayerTime]:
        """Time the layers on a batch that was found valid."""

    @abstractmethod
    def _close(self) -> None:
        """Drop what the backend holds."""

    def _refuse(self, batch: object) -> NoReturn:
        where = f"engine {self.sidecar['id']}"
        if self.closed:
            raise UsageError(f"{where}: the session is closed; load the engine again")
        if isinstance(batch, np.ndarray) and batch.ndim > 0 and len(batch) == 0:
            raise UsageError(f"{where}: expected at least one image, found {_describe(batch)}")
        raise UsageError(f"{where}: expected {self.inputs[0]}, found {_describe(batch)}")


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"{type(value).__module__}.{type(value).__qualname__}"
