"""Why a queued request got no outputs. Each is what its future raises.

ResnetrtError
├── Overloaded          the queue was full, so the request was not taken
├── Dropped             a newer request of the same stream took its place
├── DeadlineExceeded    its time was over before it could run
├── EngineFailed        the engine raised; the engine's own error is the cause
└── Closed              the batcher was closed
"""

from resnetrt.errors import ResnetrtError


class Overloaded(ResnetrtError):
    """The queue was full; try again later or send less."""


class Dropped(ResnetrtError):
    """A newer request of the same stream took this one's place in the queue."""


class DeadlineExceeded(ResnetrtError):
    """The request waited longer than it was allowed to."""


class EngineFailed(ResnetrtError):
    """The engine raised on this request, run on its own."""


class Closed(ResnetrtError):
    """The batcher takes no more requests."""
