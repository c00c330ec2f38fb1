"""How requests become batches, under Triton's names and with its meaning."""

from dataclasses import dataclass

from resnetrt.errors import UsageError


@dataclass(frozen=True)
class BatchOptions:
    """`max_batch_size` images at most in one batch; one request may hold as many.

    As soon as an instance is free it takes what is queued, so that the next batch forms while one runs. A batch that
    reaches no `preferred_batch_size` waits up to `max_queue_delay_microseconds` for more. `max_queue_size` requests may
    wait, over all streams. A request that waits longer than its timeout fails; 0 is no limit. The names and meanings
    are those of Triton's `dynamic_batching`.
    """

    max_batch_size: int = 8
    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = 0
    max_queue_size: int = 128
    default_timeout_microseconds: int = 0

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_queue_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected at least 1, found {getattr(self, name)}")
        for name in ("max_queue_delay_microseconds", "default_timeout_microseconds"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        outside = [size for size in self.preferred_batch_size if not 1 <= size <= self.max_batch_size]
        if outside:
            raise UsageError(f"preferred_batch_size: expected 1 to {self.max_batch_size}, found {outside[0]}")
