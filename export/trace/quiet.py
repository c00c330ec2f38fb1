"""Silence around torch's exporter, which logs and prints its steps; what fails still raises."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator

_NO_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'.*")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop warnings, log records below ERROR, and whatever is printed."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def first_cause(error: BaseException) -> str:
    """The first line of the exception that began a chain, without colours; the exporter wraps it in advice.

    Where that line only sends the reader to the logs, it is the first point of the list below it.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    first = _NO_OPERATOR.sub(r"ONNX has nothing for \1 as it is used here", next(iter(lines), type(error).__name__))
    head, sends_to_logs, _ = first.partition(" For more information, run with TORCH_LOGS")
    details = [line.removeprefix("- ") for line in lines[1:] if line.startswith("- ")]
    return f"{head.rstrip('!')}: {details[0].partition('. If ')[0]}" if sends_to_logs and details else head
