"""One network's models and sessions, each made once and shared by the steps."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from resnetrt.benchmarks.peers.engines import open_file, open_own
from resnetrt.benchmarks.peers.isolated import Made, make
from resnetrt.benchmarks.peers.request import Request, Subject
from resnetrt.benchmarks.peers.tools import Tool
from resnetrt.errors import ResnetrtError
from resnetrt.runtime.session import Session

T = TypeVar("T")


class Workshop:
    """The models and sessions of one network, each made once; `left_out` collects what can't be made."""

    def __init__(self, subject: Subject, request: Request, stack: ExitStack) -> None:
        self.subject = subject
        self.request = request
        self.left_out: list[str] = []
        self._stack = stack
        self._made: dict[str, Made | None] = {}
        self._sessions: dict[str, Session | None] = {}

    def made(self, tool: Tool) -> Made | None:
        """The tool's model, or None if it can't make one."""
        if tool.name not in self._made:
            self._made[tool.name] = self.attempt(tool.name, partial(self._make, tool))
        return self._made[tool.name]

    def remember(self, tool: Tool, made: Made) -> None:
        """Use this model."""
        self._made[tool.name] = made

    def sessions(self) -> Iterator[tuple[Tool, str, Session]]:
        """Every tool's model on every backend for it."""
        for tool in self.subject.tools:
            made = self.made(tool)
            for backend in tool.backends if made is not None else ():
                assert made is not None
                session = self.session(f"{tool.name}|{backend}", partial(self._open, tool, made, backend))
                if session is not None:
                    yield tool, backend, session

    def session(self, name: str, opener: Callable[[], Session]) -> Session | None:
        """The session of this name, opened once."""
        if name not in self._sessions:
            session = self.attempt(name, opener)
            self._sessions[name] = None if session is None else self._stack.enter_context(session)
        return self._sessions[name]

    def attempt(self, what: str, action: Callable[[], T]) -> T | None:
        """What `action` returns; None, and a line in `left_out`, if this machine or version can't do it."""
        try:
            return action()
        except ResnetrtError as error:
            self.left_out.append(f"{self.subject.name} {what}: {error}")
            return None

    def _make(self, tool: Tool) -> Made:
        subject = self.subject
        return make(tool, subject.bundle, subject.calib, subject.samples, subject.folder)

    def _open(self, tool: Tool, made: Made, backend: str) -> Session:
        if tool.package == "resnetrt":
            return open_own(made.path, backend, self.request.threads)
        return open_file(made.path, backend, self.request.threads, self.subject.bundle.manifest.preprocessing)
