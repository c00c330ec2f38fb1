"""Interval of a difference between two proportions seen on the same images."""

from resnetrt.benchmarks.stats.noninferiority import critical, drop_score, falling_root


def drop_interval(lost: float, gained: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of the drop `(lost - gained) / n`, as a fraction.

    `lost` images only the reference gets right, `gained` only the candidate. Tango (1998), Statistics in Medicine 17,
    891-908: the drops that the score test does not reject; honest at few or no discordant images, unlike Wald's.
    Raises `ValueError` for counts that make no sense.
    """
    if n < 1 or lost < 0 or gained < 0 or lost + gained > n * (1 + 1e-9):
        raise ValueError(f"expected 0 <= lost + gained <= n, found {lost}, {gained}, {n}")
    z = critical(0.5 + confidence / 2)
    estimate = (lost - gained) / n
    low = falling_root(lambda drop: float(drop_score(lost, gained, n, drop)) - z, -1.0, estimate)
    high = falling_root(lambda drop: float(drop_score(lost, gained, n, drop)) + z, estimate, 1.0)
    return low, high
