"""The one logger of a TensorRT library in this process, and what it logs during a call.

TensorRT keeps a single logger: a second one is ignored with a warning, so builder and runtime must share it, and so do
the sessions of all threads. A failure is explained by what was logged since the failing call began, never by what
another call left behind. Errors after the first mislead: without a GPU every API error is followed by one about the
CUDA driver.
"""

import re
import threading
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Any, TypeVar

from resnetrt.errors import EnvironmentFault

Made = TypeVar("Made")
Lines = list[tuple[int, str]]
ERROR, WARNING = 1, 2  # of ILogger; 0 is INTERNAL_ERROR, 3 INFO, 4 VERBOSE

_START = "TensorRT's {} can't start"
_SOURCE = re.compile(r" ?\(?(?:In|at) [\w:~]+ at /_src/[^\s)]+\)?| In \w+ at /_src/\S+")
_PREFIX = re.compile(r"^(?:\[[^\]]*\] ?)?(?:\w+::\w+: )?Error Code \d+: ")
# text after the first error in the same record; without a GPU it is always about the driver
_LATER = re.compile(r"(?<=.) \[\w+\.cpp::\w+::\d+\] Error Code .*| In node -?\d+ with name: and operator: .*")


class Recording:
    """Every line of the calls that `thread` makes in the block, as severity and text: the `with` statement's target.

    A class and not a generator, because it surrounds calls in the hot path: 1.7 us and not 3.7 us on a busy core.
    """

    def __init__(self, recordings: "list[Recording]") -> None:
        self.thread = threading.get_ident()
        self.lines: Lines = []
        self._recordings = recordings

    def __enter__(self) -> Lines:
        self._recordings.append(self)
        return self.lines

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._recordings.remove(self)


class Recorder:
    """Hands each logged line to the calls that it belongs to. Several threads may log and record at once."""

    def __init__(self) -> None:
        self._recordings: list[Recording] = []

    def recorded(self) -> Recording:
        """`with logger.recorded() as lines` has what is logged in the block. Blocks may be nested."""
        return Recording(self._recordings)

    def log(self, severity: Any, text: str) -> None:
        """What TensorRT calls. A line belongs to the calls that its thread makes; of TensorRT's own threads, to all.

        TensorRT-RTX 1.7.1 logs a whole build from the thread that called it.
        """
        here, recordings = threading.get_ident(), tuple(self._recordings)
        belongs = [each for each in recordings if each.thread == here]
        if not belongs and not _is_python_thread(here):
            belongs = list(recordings)
        for each in belongs:
            each.lines.append((int(severity), text))


@cache
def logger_of(trt: Any) -> Any:
    """The `Recorder` of the library `trt` that is its `ILogger` too."""

    def initialize(self: Any) -> None:
        Recorder.__init__(self)
        trt.ILogger.__init__(self)

    return type("Logger", (Recorder, trt.ILogger), {"__init__": initialize})()


def make(kind: Callable[[Any], Made], logger: Any) -> Made:
    """A `Builder` or `Runtime` of TensorRT. Raises `EnvironmentFault` with the reason that it logged if it fails.

    Then pybind11 only says that a factory returned nullptr, and tensorrt_lean gives an object that crashes the process.
    """
    with logger.recorded() as lines:
        try:
            made = kind(logger)
        except TypeError as error:
            raise EnvironmentFault(f"{_START.format(kind.__name__)}: {first_error(lines) or error}") from error
    if reason := first_error(lines):
        raise EnvironmentFault(f"{_START.format(kind.__name__)}: {reason}")
    return made


def first_error(lines: Lines) -> str:
    """The text of the first ERROR line, without source positions; empty if there is none."""
    return next((clean(text) for severity, text in lines if severity <= ERROR), "")


def warnings_of(lines: Lines) -> list[str]:
    """The text of each WARNING, once."""
    return list(dict.fromkeys(clean(text) for severity, text in lines if severity == WARNING))


def clean(text: str) -> str:
    """One line, without TensorRT's own prefixes and source positions."""
    line = _LATER.sub("", " ".join(text.split()))
    return _SOURCE.sub("", _PREFIX.sub("", line)).strip() or line


def _is_python_thread(ident: int) -> bool:
    return any(thread.ident == ident for thread in threading.enumerate())
