"""Sessions that wait when told to: what a test of overlapping calls needs and no real engine offers."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from resnetrt.engine_record import EngineRecord
from resnetrt.runtime.session import LayerTime, Outputs, Session
from resnetrt.tensor_spec import TensorSpec


class GatedSession(Session):
    """Doubles its input, float32 `(N, 2)`. A batch with a NaN raises. `gate` holds back every run while it is clear."""

    def __init__(self, batch: int | None = None) -> None:
        spec = TensorSpec("x", "float32", (batch, 2))
        record = EngineRecord("gated", "test", "fp32", "cpu")
        super().__init__(record, (spec,), (TensorSpec("y", "float32", (batch, 2)),), 1)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[np.ndarray] = []
        self.addresses: list[int] = []

    def _infer(self, batch: Any) -> Outputs:
        self.entered.release()
        assert self.gate.wait(30)
        self.batches.append(batch.copy())
        self.addresses.append(batch.ctypes.data)
        if np.isnan(batch).any():
            raise ValueError("no numbers")
        return {"y": batch * 2}

    def _profile(self, batch: Any, runs: int) -> list[LayerTime]:
        return []

    def _close(self) -> None:
        return None

    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


@contextmanager
def under_way(session: Session, batch: np.ndarray) -> Iterator[Future[Outputs]]:
    """While another thread is inside `session.infer(batch)`, of a real engine; its answer comes after the block."""
    entered, leave, infer = threading.Event(), threading.Event(), session._infer

    def wait_first(batch: np.ndarray) -> Outputs:
        entered.set()
        assert leave.wait(60)
        return infer(batch)

    session._infer = wait_first  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(session.infer, batch)
        try:
            assert entered.wait(60)
            yield answer
        finally:
            leave.set()
