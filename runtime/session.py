"""What every backend offers: a loaded engine that infers, profiles itself and is closed."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from types import TracebackType
from typing import Any, ClassVar, Concatenate, NoReturn, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from resnetrt.engine_record import EngineRecord
from resnetrt.errors import UsageError
from resnetrt.forks import PROCESS
from resnetrt.parity import Parity
from resnetrt.preprocess import Preprocessing
from resnetrt.runtime.predict.classes import Prediction, top_classes
from resnetrt.runtime.predict.pictures import Picture, frame_of, one_or_more
from resnetrt.tensor_spec import TensorSpec

Array = npt.NDArray[Any]
Outputs = dict[str, Array]
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Session")
_BATCH = 8


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


def one_at_a_time(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Of a session's methods: `UsageError` while another thread's call is under way, after `close`, after a fork."""

    @wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self._begin()
        try:
            return method(self, *args, **kwargs)
        finally:
            self._end()

    return call


class Session(ABC):
    """A loaded engine with one input. It does one call at a time, in the process that loaded it.

    Engines mix up the inputs and outputs of calls that overlap, and their threads are not there after a fork, so both
    are refused with `UsageError`. Give each thread a session of its own, or share a `resnetrt.runtime.stream.Batcher`.

    `record` says what the engine is and how it was made; `threads` how many CPU threads it uses;
    `preprocessing` and `labels` (names of the classes) are the bundle's, None where it has none; `output` is the name
    of its logits among the `outputs`; `selftest` its agreement with the golden outputs, None while unchecked;
    `same_file` that with its own variant, None also where the bundle has no outputs of it;
    `batch_limits` the smallest and largest batch, None where there is no limit; `fallbacks` says, for each engine that
    failed its self-test before this one was taken instead, why. `on_device` says whether `execution_ms` can be asked.
    """

    on_device: ClassVar[bool] = False

    def __init__(
        self, record: EngineRecord, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], threads: int
    ) -> None:
        if len(inputs) != 1:
            listed = ", ".join(map(str, inputs)) or "none"
            raise UsageError(f"engine {record.id}: expected one input, found {listed}")
        self.record = record
        self.inputs = inputs
        self.outputs = outputs
        self.threads = threads
        self.preprocessing: Preprocessing | None = None
        self.labels: tuple[str, ...] | None = None
        self.output = outputs[0].name if outputs else ""
        self.selftest: Parity | None = None
        self.same_file: Parity | None = None
        self.fallbacks: tuple[str, ...] = ()
        self.closed = False
        self.batch_limits: tuple[int, int | None] = (inputs[0].shape[0] or 1, inputs[0].shape[0])
        self._dtype = np.dtype(inputs[0].dtype)
        self._image_shape = inputs[0].shape[1:]
        self._batch_size = inputs[0].shape[0]
        # Taking and releasing the lock, and the check for a fork, cost 0.25 us a call (0.70 us before, 0.95 us after;
        # `infer` of an engine that does nothing, in a tight loop on a busy 2-core machine).
        self._busy = threading.Lock()
        self._freed = False
        self._forks = PROCESS.forks

    @property
    def lost(self) -> str:
        """Why the device can't be used any more by this process, with all its sessions; empty as long as it can."""
        return ""

    def infer(self, batch: Array) -> Outputs:
        """Run one batch; the arrays by output name are new and the caller's to keep.

        `batch` has the dtype and shape of `inputs[0]` and at least one image. It is only read, and not copied if it is
        C-contiguous and writable; the backend may refer to its memory until the next call or `close`.
        Raises `UsageError` for another dtype or shape, while another thread's call is under way, and after `close`.
        """
        if not self._busy.acquire(False):  # inline: calls of `_begin` and `_end` would cost 0.4 us more
            self._refuse(batch, busy=True)
        try:
            if not self._takes(batch):
                self._refuse(batch)
            return self._infer(batch)
        finally:
            self._busy.release()
            if self.closed:
                self._free()

    def infer_batches(self, batches: Iterable[Array]) -> Iterator[Outputs]:
        """`infer` of one batch after the other. Each batch may be overwritten when the next one is asked for.

        On a GPU a batch is copied in while the one before is computed, so its outputs come after the next was taken.
        """
        for batch in batches:
            yield self.infer(batch)

    def staging(self, count: int) -> Array:
        """A new array for `count` images, with any content, from which `infer` copies least: pinned memory for a GPU.

        It is the caller's: allocate it once and fill it often.
        """
        axes = (axis or 1 for axis in self._image_shape)
        return np.zeros((count, *axes), self._dtype)

    def sibling(self) -> "Session | None":
        """Another session of the same loaded engine, for another thread; None where each session loads its own.

        Weights are shared, and so is the file's content; it is not self-tested, and closed by itself.
        """
        return None

    def prepare(self, frames: Array) -> Array:
        """The batch for `infer` of uint8 `(N, H, W, C)` frames: the frames themselves if the engine takes uint8.

        Otherwise a new float32 `(N, C, H, W)`, preprocessed as the bundle says. Raises `UsageError` for other frames.
        """
        if self._dtype == np.uint8:
            return frames
        preprocessing = self._known_preprocessing()
        shape = (*preprocessing.size, preprocessing.channels)
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.shape[1:] != shape:
            raise UsageError(f"frames: expected uint8 (N, {', '.join(map(str, shape))}), found {_describe(frames)}")
        return preprocessing.normalize(frames)

    def infer_frames(self, frames: Array) -> Outputs:
        """`infer` of uint8 `(N, H, W, C)` frames, preprocessed as the bundle says."""
        return self.infer(self.prepare(frames))

    def predict(self, pictures: Picture | Iterable[Picture], top: int = 5) -> list[tuple[Prediction, ...]]:
        """The `top` likeliest classes of each picture, likeliest first.

        A picture is an image file (a path, or its bytes), or pixels: uint8 `(H, W, C)` or `(H, W)`. They are resized
        and cropped as the bundle says, but for pixels of the model's own size, and run in batches of a few.
        Raises `DataError` for what is no picture, `UsageError` for a model without logits of two classes or more,
        `CheckFailed` for logits that are not finite.
        """
        preprocessing, given, size = self._known_preprocessing(), one_or_more(pictures), batch_size(self)
        predictions: list[tuple[Prediction, ...]] = []
        for start in range(0, len(given), size):
            frames = np.stack([frame_of(picture, preprocessing) for picture in given[start : start + size]])
            fitting = max(1, self.batch_limits[0]) if len(frames) == 1 else size
            logits = infer_all(self, self.prepare(frames), self.output, fitting)
            predictions += top_classes(logits, top, self.labels, f"engine {self.record.id}")
        return predictions

    def profile(self, batch: Array, runs: int = 10) -> list[LayerTime]:
        """Time every executed layer, mean over `runs` after warm-up, in a second, instrumented copy of the engine."""
        if runs < 1:
            raise UsageError(f"runs: expected at least 1, found {runs}")
        self.infer(batch)  # validates
        self._begin()
        try:
            return self._profile(batch, runs)
        finally:
            self._end()

    def execution_ms(self, count: int, runs: int = 100) -> list[float]:
        """Milliseconds of each run of a batch of `count`, copies included, by the device's own clock (CUDA events).

        Raises `UsageError` where the host computes.
        """
        raise UsageError(f"engine {self.record.id}: no device to ask for batch {count}, {runs} runs; time `infer`")

    def close(self) -> None:
        """Free the engine; further calls raise `UsageError`. Closing twice is fine.

        A call of another thread that is under way ends as usual, and the engine is freed after it. In a forked process
        nothing is freed: what the engine holds, and its threads, are the first process's.
        """
        self.closed = True
        self._free()

    def __enter__(self: S) -> S:
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

    def _takes(self, batch: object) -> bool:
        return (
            isinstance(batch, np.ndarray)
            and batch.dtype == self._dtype
            and batch.shape[1:] == self._image_shape
            and len(batch) == (self._batch_size or len(batch) or 1)
            and not self.closed
            and self._forks == PROCESS.forks
        )

    def _begin(self) -> None:
        """Take the session for a call; `_end` must follow."""
        if not self._busy.acquire(False):
            self._refuse(None, busy=True)
        if self.closed or self._forks != PROCESS.forks:
            self._busy.release()
            self._refuse(None)

    def _end(self) -> None:
        self._busy.release()
        if self.closed:
            self._free()

    def _free(self) -> None:
        """Drop what the backend holds, once; if a call is under way, that one does it when it ends."""
        if self._forks == PROCESS.forks and self._busy.acquire(False):
            try:
                if not self._freed:
                    self._freed = True
                    self._close()
            finally:
                self._busy.release()

    def _known_preprocessing(self) -> Preprocessing:
        if self.preprocessing is None:
            raise UsageError(f"engine {self.record.id}: no preprocessing is known; load it from its bundle")
        return self.preprocessing

    def _refuse(self, batch: object, busy: bool = False) -> NoReturn:
        where = f"engine {self.record.id}"
        PROCESS.require(self._forks, where)
        if self.closed:
            raise UsageError(f"{where}: the session is closed; load the engine again")
        if busy:
            raise UsageError(
                f"{where}: expected one call at a time, found one of another thread under way; load a session for each "
                "thread, or share a resnetrt.runtime.stream.Batcher"
            )
        if isinstance(batch, np.ndarray) and batch.ndim > 0 and len(batch) == 0:
            raise UsageError(f"{where}: expected at least one image, found {_describe(batch)}")
        raise UsageError(f"{where}: expected {self.inputs[0]}, found {_describe(batch)}")


def batch_size(session: Session) -> int:
    """A batch size if any size will do: a small one, or the nearest that the engine takes."""
    low, high = session.batch_limits
    return max(low, min(_BATCH, high or _BATCH))


def infer_all(session: Session, images: Array, output: str, size: int, overlap: bool = False) -> Array:
    """The `output` for all `images`, as `Session.prepare` gives them, in batches of `size`.

    The last batch is filled up with the first images again. With `overlap` by `infer_batches`, else by `infer`.
    """
    count = len(images)
    batches = (images[np.arange(first, first + size) % count] for first in range(0, count, size))
    runs = session.infer_batches(batches) if overlap else map(session.infer, batches)
    return np.concatenate([outputs[output] for outputs in runs])[:count]


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"{type(value).__module__}.{type(value).__qualname__}"
