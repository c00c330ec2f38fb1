"""The one logger of a TensorRT library in this process.

TensorRT keeps a single logger: a second one is ignored with a warning, so builder and runtime must share it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

Lines = list[tuple[int, str]]
ERROR = 1  # ILogger.ERROR; 0 is INTERNAL_ERROR, 2 WARNING, 3 INFO, 4 VERBOSE
_KEPT_ERRORS = 100


@cache
def logger_of(trt: Any) -> Any:
    """The logger of the library `trt`; it keeps the texts of errors in `errors`, oldest first."""

    def initialize(self: Any) -> None:
        trt.ILogger.__init__(self)
        self.errors = []
        self.lines = None

    def log(self: Any, severity: Any, text: str) -> None:
        if self.lines is not None:
            self.lines.append((int(severity), text))
        if int(severity) <= ERROR:
            self.errors.append(text)
            del self.errors[:-_KEPT_ERRORS]

    return type("Logger", (trt.ILogger,), {"__init__": initialize, "log": log})()


@contextmanager
def recorded(logger: Any) -> Iterator[Lines]:
    """Every line logged in the block, as severity and text; not reentrant."""
    lines: Lines = []
    logger.lines = lines
    try:
        yield lines
    finally:
        logger.lines = None
