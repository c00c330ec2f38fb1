"""One network's models and sessions, each made once and shared by the steps."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

from resnetrt.benchmarks.peers.engines import open_file, open_own
from resnetrt.benchmarks.peers.isolated import Made, make
from resnetrt.benchmarks.peers.request import FloatNetwork, PeersRequest
from resnetrt.benchmarks.peers.store import recipe_of
from resnetrt.benchmarks.peers.tools import Tool
from resnetrt.errors import ResnetrtError
from resnetrt.runtime.session import Session

T = TypeVar("T")


class Workshop:
    """The models and sessions of one network, each made once; `left_out` lists what can't be made."""

    def __init__(self, subject: FloatNetwork, request: PeersRequest, stack: ExitStack) -> None:
        self.subject = subject
        self.request = request
        self.left_out: list[str] = []
        self._stack = stack
        self._made: dict[str, Made | None] = {}
        self._sessions: dict[str, Session | None] = {}

    def made(self, tool: Tool) -> Made | None:
        """The tool's model, from an earlier run if nothing changed; None if the tool can't make one."""
        if tool.name not in self._made:
            self._made[tool.name] = self._earlier(tool) or self.make(tool, self.subject.samples)
        return self._made[tool.name]

    def make(self, tool: Tool, samples: int) -> Made | None:
        """A new model, made in its own process."""
        subject = self.subject
        action = partial(make, tool, subject.bundle, subject.calib, samples, subject.folder)
        made = self.attempt(tool.name, action)
        if made is not None and samples == subject.samples:
            self._made[tool.name] = made
            note = {"recipe": self._recipe(), "made": asdict(made)}
            self._note(tool).write_text(json.dumps(note), encoding="utf-8")
        return made

    def sessions(self, tools: Sequence[Tool]) -> Iterator[tuple[Tool, str, Session]]:
        """The model of each tool on every backend for it."""
        for tool in tools:
            made = self.made(tool)
            for backend in tool.backends if made is not None else ():
                assert made is not None
                session = self.session(f"{tool.name}|{backend}", partial(self._open, tool, made, backend))
                if session is not None:
                    yield tool, backend, session

    def session(self, name: str, opener: Callable[[], Session]) -> Session | None:
        """The session of this name; it is opened once."""
        if name not in self._sessions:
            session = self.attempt(name, opener)
            self._sessions[name] = None if session is None else self._stack.enter_context(session)
        return self._sessions[name]

    def attempt(self, what: str, action: Callable[[], T]) -> T | None:
        """The result of `action`; None, with a line in `left_out`, if this machine or version can't do it."""
        try:
            return action()
        except ResnetrtError as error:
            self.left_out.append(f"{self.subject.name} {what}: {error}")
            return None

    def _earlier(self, tool: Tool) -> Made | None:
        try:
            note = json.loads(self._note(tool).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        made = Made(**note["made"])
        return made if note["recipe"] == self._recipe() and made.path.exists() else None

    def _note(self, tool: Tool) -> Path:
        return self.subject.folder / f"{tool.name}-{self.subject.samples}.json"

    def _recipe(self) -> str:
        manifest = self.subject.bundle.manifest
        fp32 = manifest.files[manifest.variants["fp32"].file].sha256
        return recipe_of({"fp32": fp32, "calib": self.subject.calib, "samples": self.subject.samples})

    def _open(self, tool: Tool, made: Made, backend: str) -> Session:
        if tool.package == "resnetrt":
            return open_own(made.path, backend, self.request.threads)
        return open_file(made.path, backend, self.request.threads, self.subject.bundle.manifest.preprocessing)
