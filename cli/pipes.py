"""Output streams that outlive their reader: `resnetrt audit b.bundle | head -1` keeps the audit's exit code."""

import io
import os
import sys


class _Patient(io.TextIOWrapper):
    """Text for a file descriptor; the text is discarded once nobody reads it."""

    def write(self, text: str, /) -> int:
        """See `io.TextIOBase`."""
        try:
            return super().write(text)
        except BrokenPipeError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """See `io.TextIOBase`."""
        try:
            super().flush()
        except BrokenPipeError:
            self._give_up()

    def _give_up(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        super().flush()


def outlive_readers() -> None:
    """Replace `sys.stdout` and `sys.stderr`, if they exist."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            encoding, errors, by_lines = stream.encoding, stream.errors, stream.line_buffering
            setattr(sys, name, _Patient(stream.detach(), encoding, errors, line_buffering=by_lines))
