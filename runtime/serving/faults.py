"""What goes wrong with a request, and the code that HTTP and gRPC give it."""

from enum import Enum

from resnetrt.errors import DataError, ResnetrtError, UsageError
from resnetrt.runtime.stream import Closed, DeadlineExceeded, Dropped, Overloaded


class Kind(Enum):
    """Kinds of faults: the HTTP status and the name of the gRPC status code."""

    INVALID = (400, "INVALID_ARGUMENT")
    EXISTS = (400, "ALREADY_EXISTS")
    NOT_FOUND = (404, "NOT_FOUND")
    SLOW = (408, "DEADLINE_EXCEEDED")
    TOO_LARGE = (413, "INVALID_ARGUMENT")
    ENCODING = (415, "INVALID_ARGUMENT")
    INTERNAL = (500, "INTERNAL")
    UNSUPPORTED = (501, "UNIMPLEMENTED")
    UNAVAILABLE = (503, "UNAVAILABLE")
    DEADLINE = (504, "DEADLINE_EXCEEDED")

    @property
    def http_status(self) -> int:
        """The status of an HTTP response."""
        return self.value[0]

    @property
    def grpc_code(self) -> str:
        """The name in `grpc.StatusCode`."""
        return self.value[1]


class RequestFault(ResnetrtError):
    """A request that is answered with an error. Messages go to the client."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def invalid(message: str) -> RequestFault:
    """A fault of the client."""
    return RequestFault(Kind.INVALID, message)


_KINDS: tuple[tuple[type[ResnetrtError], Kind], ...] = (
    (DeadlineExceeded, Kind.DEADLINE),
    (Overloaded, Kind.UNAVAILABLE),
    (Dropped, Kind.UNAVAILABLE),
    (Closed, Kind.UNAVAILABLE),
    (UsageError, Kind.INVALID),
    (DataError, Kind.INVALID),
)


def as_fault(error: Exception) -> RequestFault:
    """The fault that `error` is answered with; what nobody expected is INTERNAL, without its text."""
    if isinstance(error, RequestFault):
        return error
    if isinstance(error, ResnetrtError):
        kind = next((kind for known, kind in _KINDS if isinstance(error, known)), Kind.INTERNAL)
        return RequestFault(kind, str(error))
    return RequestFault(Kind.INTERNAL, f"internal error ({type(error).__name__}); the server's log has more")
