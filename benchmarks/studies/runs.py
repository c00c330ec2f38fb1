"""How often the regression check is wrong, by simulation and on real runs of identical code; seeded.

    python -m resnetrt.benchmarks.studies.runs [--trials 1000] [--seed 0] [--measured BENCH.json]

A simulated command has six cells with six rounds per run; the last cell, or none, is planted to be slower. The
product's own code is judged: `compare_runs`, called twice if the first look is undecided. "by rounds" is the former
check: one run per side, rounds resampled. `--measured` takes a `bench.json` with several runs of identical code.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.compare.more_runs import RUNS
from resnetrt.benchmarks.compare.records import read_record
from resnetrt.benchmarks.compare.regression import Regression, Run, compare_runs, runs_of, slim
from resnetrt.benchmarks.depth.bench_record import ComparedRow
from resnetrt.benchmarks.measure.latency import BASELINE
from resnetrt.benchmarks.measure.timing import median_interval

LIMIT, CELLS, ROUNDS = 5.0, 6, 6
OFFSETS = (0.0, 0.01, 0.02, 0.03)
Floats = npt.NDArray[np.float64]
Noise = Callable[[tuple[int, int, int], np.random.Generator], Floats]  # maps (runs, cells, rounds) to logarithms


def _independent(shape: tuple[int, int, int], rng: np.random.Generator) -> Floats:
    return rng.normal(0, 0.01, shape)


def _outliers(shape: tuple[int, int, int], rng: np.random.Generator) -> Floats:
    return _independent(shape, rng) + 0.3 * (rng.random(shape) < 0.1)


def _bimodal(shape: tuple[int, int, int], rng: np.random.Generator) -> Floats:
    return _independent(shape, rng) + 0.06 * (rng.random(shape) < 0.3)


def _drifting(shape: tuple[int, int, int], rng: np.random.Generator) -> Floats:
    phase = rng.uniform(0, 2 * np.pi, (*shape[:2], 1))
    return _independent(shape, rng) + 0.04 * np.sin(phase + 0.7 * 2 * np.pi * np.arange(shape[2]) / shape[2])


def _alike(shape: tuple[int, int, int], rng: np.random.Generator) -> Floats:
    """First-order autoregression, correlation 0.8, standard deviation 3 %."""
    series = rng.normal(0, 0.03, shape)
    for i in range(1, shape[2]):
        series[..., i] = 0.8 * series[..., i - 1] + 0.6 * series[..., i]
    return series


def _offset(percent: float) -> Noise:
    """A shift of each cell in each run; half of its variance is common to the run's cells."""

    def noise(shape: tuple[int, int, int], rng: np.random.Generator) -> Floats:
        shift = rng.standard_normal((*shape[:2], 1)) + rng.standard_normal((shape[0], 1, 1))
        return _independent(shape, rng) + percent / 100 * math.sqrt(0.5) * shift

    return noise


def _wandering(shape: tuple[int, int, int], rng: np.random.Generator) -> Floats:
    """A machine that drifts from run to run: a random walk of 1 % a run, the same for all cells."""
    return _independent(shape, rng) + np.cumsum(rng.normal(0, 0.01, (shape[0], 1, 1)), 0)


NOISES: dict[str, Noise] = {
    "independent": _independent,
    "outliers": _outliers,
    "bimodal": _bimodal,
    "drifting": _drifting,
    "autocorrelated": _alike,
    "offset 1 %": _offset(1),
    "offset 2 %": _offset(2),
    "offset 3 %": _offset(3),
    "wandering": _wandering,
}


def rows(logs: Floats, slower: Floats | float = 0.0) -> list[Run]:
    """Runs from `logs` `(runs, cells, rounds)`, with an eager that always takes one millisecond."""
    times = np.exp(logs + np.reshape(slower, (-1, 1)))
    eager = _row(BASELINE, [1.0] * logs.shape[2])
    return [[eager, *(_row(f"e{i}", list(cell)) for i, cell in enumerate(run))] for run in times]


def _row(engine: str, round_medians_ms: list[float]) -> ComparedRow:
    return ComparedRow(
        network="n", engine=engine, batch=1, threads=1, round_medians_ms=round_medians_ms, disturbed=False
    )


def command(noise: Noise, design: str, slower: Floats, rng: np.random.Generator) -> tuple[str, float]:
    """The verdict of one command, and the share of its intervals that cover the truth."""
    if design == "by rounds":
        old, new = noise((2, CELLS, 11), rng)
        return _by_rounds(old, new + slower[:, None], slower, rng)
    stored = 1 if design == "one stored" else RUNS
    logs = noise((stored + 2 * RUNS + (RUNS if design == "in turn" else 0), CELLS, ROUNDS), rng)
    if design == "in turn":  # alternating (old new, new old, ...), with a second look
        places = np.arange(4 * RUNS).reshape(-1, 2)
        places[1::2] = places[1::2, ::-1]
        old, new = logs[places[:, 0]], logs[places[:, 1]]
    else:
        old, new = logs[:stored], logs[stored:]

    def look(count: int) -> Regression:
        return compare_runs(rows(old[:count] if design == "in turn" else old), rows(new[:count], slower), LIMIT)

    regression = look(RUNS)
    if regression.verdict == "INCONCLUSIVE":
        regression = look(2 * RUNS)
    return regression.verdict, float(np.mean([
        _covers(cell.ci_percent, truth) for cell, truth in zip(regression.cells, slower, strict=True)
    ]))  # fmt: skip


def _covers(interval: tuple[float, float] | None, log_truth: float) -> bool:
    return interval is not None and interval[0] <= 100 * math.expm1(log_truth) <= interval[1]


def _by_rounds(old: Floats, new: Floats, slower: Floats, rng: np.random.Generator) -> tuple[str, float]:
    """The former check: one run per side, rounds resampled, the worst cell's verdict."""
    medians = [np.median(side[:, rng.integers(0, side.shape[1], (1000, side.shape[1]))], -1) for side in (old, new)]
    low, high = np.percentile(medians[1] - medians[0], [2.5, 97.5], axis=1)
    limit = math.log1p(LIMIT / 100)
    verdict = "FAIL" if (low > limit).any() else "PASS" if (high <= limit).all() else "INCONCLUSIVE"
    return verdict, float(np.mean((low <= slower) & (slower <= high)))


def simulate(noise: str, design: str, trials: int, seed: int) -> dict[str, float]:
    """Percentages over `trials` commands for each planted slowdown.

    0 and 3 % are planted in all cells; 7 and 10 % in a single cell, where the other cells hide it best.
    """
    percentages: dict[str, float] = {}
    covered = []
    for percent in (0, 3, 7, 10):
        rng = np.random.default_rng([seed, percent])
        slower = np.full(CELLS, math.log1p(percent / 100))
        if percent > LIMIT:
            slower[:-1] = 0
        tried = [command(NOISES[noise], design, slower, rng) for _ in range(trials)]
        verdicts = [verdict for verdict, _ in tried]
        covered.append(np.mean([share for _, share in tried]))
        for verdict in ("PASS", "FAIL"):
            percentages[f"{verdict} at {percent}"] = 100 * verdicts.count(verdict) / trials
    return percentages | {"least coverage": 100 * float(min(covered))}


def measured(runs: Sequence[Run], seed: int) -> Iterator[str]:
    """Real runs of identical code, disturbed or not: every pair by the former check, then splits of all runs."""
    kept: list[list[ComparedRow]] = [[{**row, "disturbed": False} for row in slim(run)] for run in runs]
    marked = sum(any(row.get("disturbed") for row in run) for run in runs)
    rng = np.random.default_rng(seed)
    cells = [(row["network"], row["engine"], row["batch"]) for row in kept[0] if row["engine"] != BASELINE]
    logs = [np.log([_normalised(run, *cell) for cell in cells]) for run in kept]
    spread = 100 * np.std([np.median(run, 1) for run in logs], axis=0, ddof=1)
    yield f"\n{len(kept)} runs, {marked} disturbed; standard deviation from run to run " + ", ".join(
        f"{network} {engine} batch {batch} {value:.1f} %"
        for (network, engine, batch), value in zip(cells, spread, strict=True)
    )
    yield "\n| real runs | comparisons | FAIL | PASS | coverage |\n|---|---|---|---|---|"
    pairs = [(a, b) for a in range(len(kept)) for b in range(len(kept)) if a != b]
    for percent in (0, 10):
        slower = np.full(len(cells), math.log1p(percent / 100))
        before = [_by_rounds(logs[a], logs[b] + slower[:, None], slower, rng) for a, b in pairs]
        yield _shares(f"by rounds, all ordered pairs, {percent} % planted", before)
        splits = [_split(kept, chosen, slower, cells) for chosen in _choices(len(kept), rng)]
        yield _shares(f"by runs, halves of all, {percent} % planted", splits)
        alone = [_split(kept, (one,), slower, cells) for one in range(len(kept))]
        yield _shares(f"by runs, each one against the rest, {percent} % planted", alone)


def _choices(count: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    halves = list(combinations(range(count), count // 2))
    return [halves[i] for i in rng.permutation(len(halves))[:200]]


def _split(runs: Sequence[Run], old: Sequence[int], slower: Floats, cells: Sequence[Any]) -> tuple[str, float]:
    now = [[_slowed(row, slower[0]) for row in run] for i, run in enumerate(runs) if i not in old]
    regression = compare_runs([runs[i] for i in old], now, LIMIT)
    return regression.verdict, float(np.mean([_covers(cell.ci_percent, slower[0]) for cell in regression.cells]))


def _slowed(row: ComparedRow, log_factor: float) -> ComparedRow:
    factor = 1.0 if row["engine"] == BASELINE else math.exp(log_factor)
    return {**row, "round_medians_ms": [factor * ms for ms in row["round_medians_ms"]]}


def _normalised(run: Run, network: str, engine: str, batch: int) -> list[float]:
    """The cell's first rounds divided by eager's, equally many in each run."""
    times = {
        row["engine"]: row["round_medians_ms"] for row in run if (row["network"], row["batch"]) == (network, batch)
    }
    return [a / b for a, b in zip(times[engine][:ROUNDS], times[BASELINE][:ROUNDS], strict=True)]


def _shares(name: str, tried: Sequence[tuple[str, float]]) -> str:
    share = {verdict: 100 * sum(v == verdict for v, _ in tried) / len(tried) for verdict in ("PASS", "FAIL")}
    covered = 100 * float(np.mean([covered for _, covered in tried]))
    return f"| {name} | {len(tried)} | {share['FAIL']:.0f} | {share['PASS']:.0f} | {covered:.0f} |"


def autocorrelated_rounds(trials: int, seed: int) -> Iterator[str]:
    """Coverage of `ci_ms` by number of rounds and correlation of neighbours."""
    rng = np.random.default_rng(seed)
    for rounds in (6, 11, 33):
        shares = []
        for alike in (0.0, 0.3, 0.6, 0.8):
            series = rng.standard_normal((trials, rounds))
            for i in range(1, rounds):
                series[:, i] = alike * series[:, i - 1] + math.sqrt(1 - alike**2) * series[:, i]
            intervals = [median_interval(values) for values in series]
            covered, told = np.mean([(low <= 0 <= high, says) for low, high, says in intervals], 0)
            shares.append(f"{100 * covered:.0f} ({100 * told:.0f})")
        yield f"| {rounds} | {' | '.join(shares)} |"


def main(words: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser("python -m resnetrt.benchmarks.studies.runs", description=main.__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measured", type=Path, help="a bench.json of several runs of the same thing")
    given = parser.parse_args(words)

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    say(
        "| noise | sides | FAIL at 0 % | at 3 % | PASS at 7 % | at 10 % | least coverage | PASS at 0 % | FAIL at 10 % |"
    )
    say("|---|---|---|---|---|---|---|---|---|")
    for noise in NOISES:
        for design in ("by rounds", "one stored", f"{RUNS} stored", "in turn"):
            row = simulate(noise, design, given.trials, given.seed)
            wrong = [row["FAIL at 0"], row["FAIL at 3"], row["PASS at 7"], row["PASS at 10"]]
            values = [*wrong, row["least coverage"], row["PASS at 0"], row["FAIL at 10"]]
            say(f"| {noise} | {design} | {' | '.join(f'{value:.1f}' for value in values)} |")
    say("\n| rounds | not alike | 0.3 | 0.6 | 0.8 |\n|---|---|---|---|---|")
    for line in autocorrelated_rounds(2 * given.trials, given.seed):
        say(line)
    if given.measured is not None:
        for line in measured(runs_of(read_record(given.measured)), given.seed):
            say(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
