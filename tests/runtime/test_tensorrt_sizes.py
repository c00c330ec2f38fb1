"""Which size a batch runs at: the next power of two, or a number of the engine's own profiles."""

import pytest

from resnetrt.errors import UsageError
from resnetrt.runtime.backends.tensorrt_sizes import BatchSizes


@pytest.mark.parametrize(
    ("profiles", "count", "expected"),
    [
        ([(1, 8, 32)], 1, (1, 0)),
        ([(1, 8, 32)], 3, (4, 0)),
        ([(1, 8, 32)], 8, (8, 0)),
        ([(1, 8, 32)], 17, (32, 0)),
        ([(1, 12, 24)], 9, (12, 0)),  # tuned for it
        ([(1, 12, 24)], 13, (16, 0)),
        ([(1, 12, 24)], 17, (24, 0)),
        ([(3, 3, 6)], 5, (6, 0)),
        ([(1, 1, 1), (4, 4, 4)], 4, (4, 1)),
        ([(1, 1, 4), (2, 8, 16)], 3, (4, 0)),
        ([(1, 1, 4), (2, 8, 16)], 16, (16, 1)),
        ([(1, 8, 32), (5, 5, 5)], 5, (5, 1)),  # a profile of its own
        ([(8, 8, 8)], 8, (8, 0)),
    ],
)
def test_the_next_size_and_the_profile_tuned_nearest(
    profiles: list[tuple[int, int, int]], count: int, expected: tuple[int, int]
):
    assert BatchSizes(profiles).find(count, "x") == expected


def test_every_batch_fits_the_profile_it_runs_in():
    profiles = [(2, 3, 7), (5, 9, 13), (20, 20, 20)]
    sizes = BatchSizes(profiles)
    for count in [*range(2, 14), 20]:
        size, profile = sizes.find(count, "x")
        low, _, high = profiles[profile]
        assert low <= size <= high
        assert count <= size


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_what_no_profile_holds_is_refused(count: int):
    with pytest.raises(UsageError, match=f"x: expected 2, 4 images in a batch, found {count}; compile it for more"):
        BatchSizes([(2, 2, 2), (4, 4, 4)]).find(count, "x")
