"""The batch sizes that an engine is run at: a smaller batch is filled up to the next of them.

Each size costs a context and a CUDA graph, and its first batch a warm-up and a capture. With a size for each batch, 200
batches of random sizes cost 151 of them.
"""

from bisect import bisect_left
from collections.abc import Sequence

from resnetrt.errors import UsageError


class BatchSizes:
    """For profiles of (smallest, tuned, largest) batches: powers of two, and the numbers of the profiles themselves."""

    def __init__(self, profiles: Sequence[tuple[int, int, int]]) -> None:
        self._profiles = profiles
        self.limits = (min(low for low, _, _ in profiles), max(high for _, _, high in profiles))
        powers = [1 << exponent for exponent in range(self.limits[1].bit_length())]
        named = {size for profile in profiles for size in profile}
        self._sizes = sorted(named | {size for size in powers if self._fitting(size)})

    def find(self, count: int, what: str) -> tuple[int, int]:
        """The size that `count` images run at, and the number of the profile tuned nearest to it.

        Raises `UsageError` for more or fewer images than a profile holds.
        """
        if not self._fitting(count):
            ranges = ", ".join(f"{low} to {high}" if low < high else str(low) for low, _, high in self._profiles)
            raise UsageError(f"{what}: expected {ranges} images in a batch, found {count}; compile it for more")
        size = self._sizes[bisect_left(self._sizes, count)]
        return size, min(self._fitting(size), key=lambda index: abs(self._profiles[index][1] - size))

    def _fitting(self, count: int) -> list[int]:
        return [index for index, (low, _, high) in enumerate(self._profiles) if low <= count <= high]
