"""The models that are served: loaded, replaced without a dropped request, unloaded."""

import asyncio
import logging
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from resnetrt.bundle import Bundle
from resnetrt.errors import BackendMissing, CheckFailed, DeviceLost, ResnetrtError
from resnetrt.runtime.load import fallback_chain
from resnetrt.runtime.serving.faults import Kind, RequestFault, invalid
from resnetrt.runtime.serving.model import VERSION, ServedModel
from resnetrt.runtime.serving.options import ModelSpec, ServeOptions, check_names
from resnetrt.runtime.shadow import Alarm
from resnetrt.runtime.stream.statistics import Statistics

_log = logging.getLogger("resnetrt.serve")


@dataclass
class Entry:
    """A model by name: `model` is None while it is not loaded, `reason` says why."""

    spec: ModelSpec
    statistics: Statistics = field(default_factory=Statistics)
    model: ServedModel | None = None
    reason: str = "not loaded yet"
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    loads: int = 0

    def to_json(self) -> dict[str, Any]:
        """A row of the repository index."""
        state = "UNAVAILABLE" if self.model is None else "READY"
        return {"name": self.spec.name, "version": VERSION, "state": state, "reason": self.reason}


class Repository:
    """The bundles named at the start, and no others. All methods belong to the event loop's thread."""

    def __init__(self, specs: list[ModelSpec], options: ServeOptions) -> None:
        check_names(specs)
        self.options = options
        self._drain = asyncio.Event()
        self._lost_while_loading = ""
        self.entries = {spec.name: Entry(spec) for spec in specs}

    async def load_all(self) -> None:
        """Load every model; raises what the first one that fails raises."""
        for name in self.entries:
            await self._load(self.entries[name])

    async def load(self, name: str) -> None:
        """Load a model, or load it again from its bundle: requests go to the old one until the new one is warm.

        The old one then finishes what it was sent. If the new one fails, the old one stays. Raises `RequestFault`.
        It goes on when the caller is cancelled, as a client with a deadline is: threads can't be, and an engine that
        nobody waits for would never be closed.
        """
        work = asyncio.ensure_future(self._load(self._controlled(name)))
        work.add_done_callback(partial(_log_failure, name))
        try:
            await asyncio.shield(work)
        except (ResnetrtError, OSError) as error:
            raise invalid(f"failed to load {name!r}: {error}") from error

    async def unload(self, name: str) -> None:
        """Take a model out of service and wait until it has answered what it was sent. Raises `RequestFault`."""
        entry = self._controlled(name)
        async with entry.changing:
            old, entry.model, entry.reason = entry.model, None, "unloaded"
            if old is not None:
                await asyncio.to_thread(old.close)
                _log.info("model %s unloaded", name)

    async def close(self) -> None:
        """Unload all; each finishes what it was sent."""
        for entry in self.entries.values():
            async with entry.changing:
                old, entry.model, entry.reason = entry.model, None, "the server is stopping"
                if old is not None:
                    await asyncio.to_thread(old.close)

    def find(self, name: str, version: str = "") -> ServedModel:
        """The loaded model. Raises `RequestFault`: NOT_FOUND if there is none, UNAVAILABLE while it is not loaded."""
        entry = self.entries.get(name)
        if entry is None or version not in ("", VERSION):
            of = f" of version {version}" if version else ""
            raise RequestFault(Kind.NOT_FOUND, f"unknown model: {name[:200]!r}{of} is not found")
        if entry.model is None:
            raise RequestFault(Kind.UNAVAILABLE, f"model {name!r} is not ready: {entry.reason}")
        return entry.model

    @property
    def draining(self) -> bool:
        """The server is stopping."""
        return self._drain.is_set()

    def drain(self) -> None:
        """From now on the server is stopping."""
        self._drain.set()

    async def until_draining(self) -> None:
        """Wait until the server is stopping."""
        await self._drain.wait()

    @property
    def lost(self) -> str:
        """Which model's device can't be used any more by this process, and why; empty as long as all can."""
        models = (entry.model for entry in self.entries.values() if entry.model)
        lost = (f"model {model.name}: {model.batcher.lost}" for model in models if model.batcher.lost)
        return self._lost_while_loading or next(lost, "")

    @property
    def ready(self) -> bool:
        """All models are loaded, none is untrusted, and the server is not stopping."""
        entries = self.entries.values()
        loaded = all(entry.model.trusted if entry.model else entry.reason == "unloaded" for entry in entries)
        return loaded and not self.lost and not self.draining

    def index(self, only_ready: bool) -> list[dict[str, Any]]:
        """The repository index."""
        rows = [entry.to_json() for entry in self.entries.values()]
        return [row for row in rows if row["state"] == "READY" or not only_ready]

    def _controlled(self, name: str) -> Entry:
        if not self.options.control:
            raise RequestFault(
                Kind.UNAVAILABLE,
                "explicit model load / unload is not allowed; start the server with --model-control-mode explicit",
            )
        if name not in self.entries:
            raise invalid(f"failed to load {name[:200]!r}: it was not named when the server was started")
        return self.entries[name]

    async def _load(self, entry: Entry) -> None:
        async with entry.changing:
            if self.draining:
                raise RequestFault(Kind.UNAVAILABLE, "the server is stopping")
            new = await self._open(entry, entry.spec)
            old, entry.model, entry.reason = entry.model, new, ""
            entry.loads += 1
            _log.info("model %s is ready", entry.spec.name, extra={"model": entry.spec.name, **new.facts()})
            if old is not None:
                await asyncio.to_thread(old.close)

    async def _open(self, entry: Entry, spec: ModelSpec) -> ServedModel:
        loop = asyncio.get_running_loop()

        def on_alarm(alarm: Alarm) -> None:  # in the thread of the check
            if alarm.action == "fallback":
                asyncio.run_coroutine_threadsafe(self._fall_back(entry, alarm), loop)

        try:
            return await asyncio.to_thread(ServedModel.load, spec, self.options, entry.statistics, on_alarm)
        except DeviceLost as error:
            self._lost_while_loading = f"model {spec.name}: {error}"
            raise

    async def _open_first(self, entry: Entry, engines: list[str]) -> ServedModel | None:
        """The first of the engines that this machine can run; raises what the last one raises."""
        for engine in engines:
            try:
                return await self._open(entry, replace(entry.spec, engine=engine))
            except (BackendMissing, CheckFailed) as error:
                if engine == engines[-1]:
                    raise
                _log.warning("model %s: can't fall back to %s: %s", entry.spec.name, engine, error)
        return None

    async def _fall_back(self, entry: Entry, alarm: Alarm) -> None:
        """Put the engine of the next precision in the place of one that drifts; the old one stays if there is none."""
        async with entry.changing:
            old = entry.model
            if self.draining or old is None or old.record.id != alarm.engine:
                return
            name = entry.spec.name
            try:
                chain = await asyncio.to_thread(lambda: fallback_chain(Bundle.open(entry.spec.path), alarm.engine))
                new = await self._open_first(entry, chain)
            except (ResnetrtError, OSError) as error:
                _log.error("model %s: can't fall back from %s: %s", name, alarm.engine, error)
                return
            if new is None:
                _log.error("model %s: no engine to fall back to from %s", name, alarm.engine)
                return
            new.fallbacks = (f"shadow check of engine {alarm.engine}: {alarm.reason}", *new.fallbacks)
            entry.model = new
            entry.loads += 1
            _log.warning("model %s fell back to %s", name, new.record.id, extra={"model": name, **new.facts()})
            await asyncio.to_thread(old.close)


def _log_failure(name: str, work: asyncio.Task[None]) -> None:
    if not work.cancelled() and (error := work.exception()) is not None:
        _log.warning("model %s was not loaded: %s", name, error)
