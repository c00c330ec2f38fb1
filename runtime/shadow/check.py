"""The shadow check: sampled requests run again through the reference, off the hot path."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.errors import UsageError
from resnetrt.preprocess import FloatArray, Preprocessing
from resnetrt.runtime.session import Array, Outputs, Session
from resnetrt.runtime.shadow.baseline import Baseline, Reference
from resnetrt.runtime.shadow.judge import Judge, Sample
from resnetrt.runtime.shadow.store import AlarmStore

ACTIONS = ("warn", "fallback", "unready")
_LOWEST_PRIORITY = 19
_log = logging.getLogger("resnetrt.runtime.shadow")


@dataclass(frozen=True)
class ShadowOptions:
    """`rate` of requests to sample; `alpha` bounds the chance that a sound engine ever causes an alarm.

    `on_drift` is what the caller is to do at an alarm; the check itself logs, saves and tells. `queue_size` samples at
    most wait; more are dropped and counted. `directory` is where the alarm is saved, nowhere for None, in at most
    `quota_bytes`. Raises `UsageError` for values out of range.
    """

    rate: float
    alpha: float = 0.01
    on_drift: str = "warn"
    queue_size: int = 32
    directory: Path | None = None
    quota_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise UsageError(f"--shadow-rate: expected a share above 0 and up to 1, found {self.rate}")
        if not 0 < self.alpha < 0.5:
            raise UsageError(f"shadow check: expected a false-alarm chance between 0 and 0.5, found {self.alpha}")
        if self.on_drift not in ACTIONS:
            raise UsageError.unknown("action of --on-drift", self.on_drift, ACTIONS)
        if self.queue_size < 1:
            raise UsageError(f"shadow check: expected a queue of at least 1, found {self.queue_size}")


@dataclass(frozen=True)
class Alarm:
    """What `on_alarm` is given: engine, `action` of the options, why, after how many compared requests, saved where."""

    engine: str
    action: str
    reason: str
    compared: int
    saved: Path | None


@dataclass(frozen=True)
class ShadowState:
    """Counts of requests since the start; `evidence` is at 1 without any and means drift at `threshold`.

    `seen` passed by, `compared` were judged, `dropped` found the queue full, `repeated` were inputs judged already,
    `unusable` had no finite reference, `failed` raised in the reference. `ready` is false after an alarm with the
    action `unready`.
    """

    engine: str
    ready: bool
    seen: int
    compared: int
    dropped: int
    repeated: int
    unusable: int
    failed: int
    flips: int
    noisy: int
    evidence: float
    threshold: float
    last_sqnr_db: float | None
    saved: int
    save_failures: int
    alarm: Alarm | None


class ShadowCheck:
    """Compares what one engine answered with `reference`, in a thread of the lowest priority, until an alarm.

    `offer` is called on the hot path, by any number of threads; it never waits for a comparison. `on_alarm` is called
    once, in the checking thread. The caller closes it.
    """

    def __init__(
        self,
        engine: str,
        reference: Reference,
        baseline: Baseline,
        options: ShadowOptions,
        *,
        output: str,
        preprocessing: Preprocessing,
        about: dict[str, Any] | None = None,
        on_alarm: Callable[[Alarm], None] | None = None,
        seed: int | None = None,
    ) -> None:
        self.engine = engine
        self.options = options
        self._reference, self._output, self._preprocessing = reference, output, preprocessing
        self._about, self._on_alarm = about or {}, on_alarm
        self._judge = Judge(baseline, options.alpha)
        self._store = None if options.directory is None else AlarmStore(options.directory, options.quota_bytes)
        self._random = np.random.default_rng(seed)
        self._changed = threading.Condition()
        self._waiting: deque[Sample] = deque()
        self._seen = self._dropped = self._failed = 0
        self._busy = self._closed = False
        self._alarm: Alarm | None = None
        self._gap = self._next_gap()
        self._thread = threading.Thread(target=self._work, name=f"shadow-{engine}", daemon=True)
        self._thread.start()

    def offer(self, batch: Array, outputs: Outputs, session: Session) -> None:
        """Maybe keep copies of some rows of a batch that `session` answered; both arrays are the caller's to reuse.

        A batch of another engine than this check's is ignored, as after a fall back.
        """
        if self._alarm is not None or self._closed or session.sidecar["id"] != self.engine:
            return
        rows = self._choose(len(batch))
        if not rows:
            return
        logits = outputs[self._output]
        samples = [Sample(batch[row : row + 1].copy(), logits[row : row + 1].copy()) for row in rows]
        with self._changed:
            room = max(0, self.options.queue_size - len(self._waiting))
            self._waiting.extend(samples[:room])
            self._dropped += len(samples[room:])
            self._changed.notify_all()

    def state(self) -> ShadowState:
        """The counts, the evidence and the alarm, as of now."""
        judge, store = self._judge, self._store
        with self._changed:
            return ShadowState(
                engine=self.engine,
                ready=self._alarm is None or self.options.on_drift != "unready",
                seen=self._seen,
                compared=judge.compared,
                dropped=self._dropped,
                repeated=judge.repeated,
                unusable=judge.unusable,
                failed=self._failed,
                flips=judge.flips,
                noisy=judge.noisy,
                evidence=judge.evidence,
                threshold=judge.threshold,
                last_sqnr_db=judge.last_sqnr_db,
                saved=0 if store is None else store.saved,
                save_failures=0 if store is None else store.failures,
                alarm=self._alarm,
            )

    def flush(self, timeout_s: float) -> bool:
        """Wait until every kept sample is compared or the alarm came; false if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop after the comparison under way; what waits is dropped. Closing twice is fine."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:  # on_alarm may close it
            self._thread.join(timeout_s)

    def _next_gap(self) -> int:
        return int(self._random.geometric(self.options.rate)) - 1

    def _choose(self, count: int) -> list[int]:
        """Rows of a batch to keep: each request with the same chance, whatever it holds."""
        with self._changed:
            self._seen += count
            rows = []
            while self._gap < count:
                rows.append(self._gap)
                self._gap += 1 + self._next_gap()
            self._gap -= count
            return rows

    def _work(self) -> None:
        _lower_priority()
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
                if self._closed:
                    return
                sample, self._busy = self._waiting.popleft(), True
            try:
                self._compare(sample)
            except Exception:  # whatever it is, serving goes on
                self._failed += 1
                _log.exception("shadow check of engine %s: a sample can't be compared", self.engine)

    def _compare(self, sample: Sample) -> None:
        if not np.isfinite(sample.logits).all() or self._judge.is_new(sample.image):
            self._judge.add(sample, self._reference(self._prepare(sample.image)))
        if self._judge.reason is not None and self._alarm is None:
            self._raise_alarm(self._judge.reason)

    def _prepare(self, image: Array) -> FloatArray:
        if image.dtype == np.uint8:
            return self._preprocessing.normalize(image)
        return image.astype(np.float32, copy=False)

    def _raise_alarm(self, reason: str) -> None:
        saved = self._save(reason)
        alarm = Alarm(self.engine, self.options.on_drift, reason, self._judge.compared, saved)
        with self._changed:
            self._alarm = alarm
            self._waiting.clear()
        _log.error("shadow check: engine %s disagrees with the reference: %s", self.engine, reason)
        if self._on_alarm is not None:
            self._on_alarm(alarm)

    def _save(self, reason: str) -> Path | None:
        suspects = list(self._judge.suspects)
        if self._store is None:
            return None
        tensors: dict[str, Array] = {}
        for index, item in enumerate(suspects):
            tensors |= {
                f"{index}/input": item.sample.image,
                f"{index}/logits": item.sample.logits,
                f"{index}/reference": item.reference,
            }
        rows = [{"flip": item.flip, "sqnr_db": item.sqnr_db} for item in suspects]
        state = self.state()
        counts = ("seen", "compared", "dropped", "repeated", "unusable", "failed", "flips", "noisy")
        record = {
            "schema_version": 1,
            "engine": self.engine,
            "time_unix_s": time.time(),
            "reason": reason,
            "action": self.options.on_drift,
            "alpha": self.options.alpha,
            "evidence": state.evidence,
            "threshold": state.threshold,
            "baseline": self._judge.baseline.to_json(),
            "requests": {name: getattr(state, name) for name in counts},
            "suspects": rows,
            **self._about,
        }
        return self._store.save(tensors, record)


def _lower_priority() -> None:
    """Of this thread alone: Linux schedules each thread by its own nice value."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
    except (OSError, AttributeError):
        _log.warning("shadow check: its thread can't be given a lower priority here")
