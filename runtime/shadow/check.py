"""The shadow check: sampled requests run again through the reference and a copy of the engine, off the hot path."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.errors import UsageError
from resnetrt.forks import PROCESS
from resnetrt.runtime.session import Array, Outputs, Session
from resnetrt.runtime.shadow.baseline import Baseline
from resnetrt.runtime.shadow.judge import Judge, Sample
from resnetrt.runtime.shadow.scenes import Scenes
from resnetrt.runtime.shadow.store import AlarmStore

ACTIONS = ("warn", "fallback", "unready")
_LOWEST_PRIORITY = 19
_BLIND = 30  # consecutive samples that look like earlier ones, after which one warning is logged
_log = logging.getLogger("resnetrt.runtime.shadow")


@dataclass(frozen=True)
class ShadowOptions:
    """`rate` of requests to sample; `alpha` bounds the chance that a sound engine ever causes an alarm.

    `on_drift` is what the caller is to do at an alarm; the check itself logs, saves and tells. `queue_size` samples at
    most wait; more are dropped and counted. `directory` is where the alarm is saved, nowhere for None, in at most
    `quota_bytes`. With `copy` samples also run through a second copy of the engine, which finds what the reference
    can't tell from the noise of quantization. Evidence against the reference is one request in `interval_s`, and with
    `scenes` one of those that look alike. Raises `UsageError` for values out of range.
    """

    rate: float
    alpha: float = 0.01
    on_drift: str = "warn"
    queue_size: int = 32
    directory: Path | None = None
    quota_bytes: int = 64 << 20
    copy: bool = True
    interval_s: float = 60.0
    scenes: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise UsageError(f"--shadow-rate: expected a share above 0 and up to 1, found {self.rate}")
        if not 0 < self.alpha < 0.5:
            raise UsageError(f"shadow check: expected a false-alarm chance between 0 and 0.5, found {self.alpha}")
        if self.on_drift not in ACTIONS:
            raise UsageError.unknown("action of --on-drift", self.on_drift, ACTIONS)
        if self.queue_size < 1:
            raise UsageError(f"shadow check: expected a queue of at least 1, found {self.queue_size}")
        if not 0 <= self.interval_s < np.inf:
            raise UsageError(f"--shadow-interval: expected seconds of at least 0, found {self.interval_s}")

    @property
    def alpha_each(self) -> float:
        """What each comparison may spend of `alpha`."""
        return self.alpha / (1 + self.copy)


@dataclass(frozen=True)
class Comparison:
    """What sampled requests are compared with. `answer` maps one input as the engine takes it to logits `(1, classes)`.

    `close` frees what it holds, once, when the check has ended.
    """

    against: str
    answer: Callable[[Array], Array]
    baseline: Baseline
    close: Callable[[], None] = lambda: None


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

    `seen` passed by, `compared` were judged beside the reference, `copy_compared` beside the engine's copy, `dropped`
    found the queue full, `repeated` were inputs judged already, `grouped` belong to a scene or an interval that has
    been judged beside the reference, `unusable` had no finite reference, `failed` raised in a comparison; `flips` and
    `noisy` are against the reference, `unlike_copy` differ from the engine's copy more than its baseline's highest
    limit; the two of the copy are None without one. `ready` is false after an alarm with the action `unready`.
    """

    engine: str
    ready: bool
    seen: int
    compared: int
    dropped: int
    repeated: int
    grouped: int
    unusable: int
    failed: int
    flips: int
    noisy: int
    unlike_copy: int | None
    copy_compared: int | None
    evidence: float
    threshold: float
    last_sqnr_db: float | None
    saved: int
    save_failures: int
    alarm: Alarm | None


class ShadowCheck:
    """Compares what one engine answered, in a thread of the lowest priority, until an alarm.

    The first of `comparisons` is with the reference, the second, if any, with a copy of the engine; `options.alpha`
    is shared between them. Of requests that depend on each other one is judged, see `Scenes`, but for a comparison
    whose baseline is exact: there a sound engine's answers do not depend on what the picture shows. `offer` is called
    on the hot path, by any number of threads; it never waits for a comparison. `on_alarm` is called once, in the
    checking thread. The caller closes it. After a fork it is refused.
    """

    def __init__(
        self,
        engine: str,
        comparisons: Sequence[Comparison],
        options: ShadowOptions,
        *,
        output: str,
        about: dict[str, Any] | None = None,
        on_alarm: Callable[[Alarm], None] | None = None,
        seed: int | None = None,
    ) -> None:
        self.engine = engine
        self.options = options
        self._comparisons, self._output = comparisons, output
        self._about, self._on_alarm = about or {}, on_alarm
        self._judges = [Judge(item.baseline, options.alpha / len(comparisons)) for item in comparisons]
        self._scenes = Scenes(options.interval_s, options.scenes)
        self._store = None if options.directory is None else AlarmStore(options.directory, options.quota_bytes)
        self._random = np.random.default_rng(seed)
        self._changed = threading.Condition()
        self._waiting: deque[Sample] = deque()
        self._seen = self._dropped = self._failed = self._grouped = 0
        self._busy = self._closed = False
        self._alarm: Alarm | None = None
        self._gap, self._forks = self._next_gap(), PROCESS.forks
        self._thread = threading.Thread(target=self._work, name=f"shadow-{engine}", daemon=True)
        self._thread.start()

    def offer(self, batch: Array, outputs: Outputs, session: Session) -> None:
        """Maybe keep copies of some rows of a batch that `session` answered; both arrays are the caller's to reuse.

        A batch of another engine than this check's is ignored, as after a fall back.
        """
        PROCESS.require(self._forks, f"shadow check of engine {self.engine}")
        if self._alarm is not None or self._closed or session.record.id != self.engine:
            return
        rows = self._choose(len(batch))
        if not rows:
            return
        logits, now = outputs[self._output], time.monotonic()
        samples = [Sample(batch[row : row + 1].copy(), logits[row : row + 1].copy(), now) for row in rows]
        with self._changed:
            room = max(0, self.options.queue_size - len(self._waiting))
            self._waiting.extend(samples[:room])
            self._dropped += len(samples[room:])
            self._changed.notify_all()

    def state(self) -> ShadowState:
        """The counts, the evidence and the alarm, as of now."""
        judge, *others = self._judges
        store, nearest = self._store, max(self._judges, key=lambda item: item.evidence)
        with self._changed:
            return ShadowState(
                engine=self.engine,
                ready=self._alarm is None or self.options.on_drift != "unready",
                seen=self._seen,
                compared=judge.compared,
                dropped=self._dropped,
                repeated=judge.repeated,
                grouped=self._grouped,
                unusable=judge.unusable,
                failed=self._failed,
                flips=judge.flips,
                noisy=judge.noisy,
                unlike_copy=others[0].noisy if others else None,
                copy_compared=others[0].compared if others else None,
                evidence=nearest.evidence,
                threshold=nearest.threshold,
                last_sqnr_db=judge.last_sqnr_db,
                saved=0 if store is None else store.saved,
                save_failures=0 if store is None else store.failures,
                alarm=self._alarm,
            )

    def flush(self, timeout_s: float) -> bool:
        """Wait until every kept sample is compared or the alarm came; false if that takes longer."""
        PROCESS.require(self._forks, f"shadow check of engine {self.engine}")
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop after the comparison under way; what waits is dropped. Closing twice is fine."""
        if self._forks != PROCESS.forks:
            return
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
        try:
            self._compare_all()
        finally:
            for item in self._comparisons:
                item.close()

    def _compare_all(self) -> None:
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
        finite, against_reference = bool(np.isfinite(sample.logits).all()), self._judges[0]
        if finite and not against_reference.is_new(sample.image):
            return
        counts, before = not finite or self._is_of_its_own(sample), against_reference.compared
        for item, judge in zip(self._comparisons, self._judges, strict=True):
            if not (counts or item.baseline.exact):
                continue
            judge.add(sample, item.answer(sample.image))
            if judge.reason is not None and self._alarm is None:
                self._raise_alarm(judge, f"beside {item.against}: {judge.reason}")
        if against_reference.compared > before:  # a request without a finite reference does not count for its scene
            self._scenes.add(sample.image, sample.at_s)

    def _is_of_its_own(self, sample: Sample) -> bool:
        new = self._scenes.is_new(sample.image, sample.at_s)
        self._grouped += not new
        if self._scenes.alike_in_a_row == _BLIND:
            _log.warning(
                "shadow check of engine %s: the last %d samples look like ones that were compared, so they are no "
                "evidence beside the reference; if they are independent all the same, give --no-shadow-scenes",
                self.engine,
                _BLIND,
            )
        return new

    def _raise_alarm(self, judge: Judge, reason: str) -> None:
        saved = self._save(judge, reason)
        alarm = Alarm(self.engine, self.options.on_drift, reason, judge.compared, saved)
        with self._changed:
            self._alarm = alarm
            self._waiting.clear()
        _log.error("shadow check: engine %s disagrees %s", self.engine, reason)
        if self._on_alarm is not None:
            self._on_alarm(alarm)

    def _save(self, judge: Judge, reason: str) -> Path | None:
        suspects = list(judge.suspects)
        if self._store is None:
            return None
        tensors: dict[str, Array] = {}
        for index, item in enumerate(suspects):
            tensors |= {
                f"{index}/input": item.sample.image,
                f"{index}/logits": item.sample.logits,
                f"{index}/reference": item.reference,
            }
        state = self.state()
        counts = ("seen", "compared", "dropped", "repeated", "grouped", "unusable", "failed", "flips", "noisy",
                  "unlike_copy", "copy_compared")  # fmt: skip
        record = {
            "schema_version": 1,
            "engine": self.engine,
            "time_unix_s": time.time(),
            "reason": reason,
            "action": self.options.on_drift,
            "alpha": self.options.alpha,
            "evidence": state.evidence,
            "threshold": state.threshold,
            "baseline": judge.baseline.to_json(),
            "requests": {name: getattr(state, name) for name in counts},
            "suspects": [{"flip": item.flip, "sqnr_db": item.sqnr_db} for item in suspects],
            **self._about,
        }
        return self._store.save(tensors, record)


def _lower_priority() -> None:
    """Of this thread alone: Linux schedules each thread by its own nice value."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
    except (OSError, AttributeError):
        _log.warning("shadow check: its thread can't be given a lower priority here")
