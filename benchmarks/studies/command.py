"""The command line of the seeded simulations: tables on stdout, line by line as they are computed."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence

Study = Callable[[int, int], Iterable[str]]  # maps a number of trials and a seed to lines


def print_study(
    study: Study, name: str, doc: str | None, count: int, words: Sequence[str] | None = None, unit: str = "trials"
) -> None:
    """Print `study` of module `name`, whose docstring is `doc`, for the arguments `words`, by default this process's.

    `count` is the default of the option `--trials`, or of the option named after `unit`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m resnetrt.benchmarks.studies.{name}", description=doc)
    parser.add_argument(f"--{unit}", dest="count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    for line in study(given.count, given.seed):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
