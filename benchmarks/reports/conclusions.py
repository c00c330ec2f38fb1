"""What follows from a bench run, and from a regression check, in words; results may be of earlier versions."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from resnetrt.benchmarks.depth.baselines import ENGINE, ENGINE_IN_PLACE, PEERS, RivalRow, closest
from resnetrt.benchmarks.depth.bench_record import BenchRecord, CellRow, RegressionRecord
from resnetrt.benchmarks.depth.fit import CrossingRow, RatioRow
from resnetrt.benchmarks.measure.latency import BASELINE, BASELINES
from resnetrt.benchmarks.measure.roofline import ResultRow
from resnetrt.benchmarks.measure.timing import ENOUGH_ROUNDS, no_ratio
from resnetrt.benchmarks.reports.cells import baseline_words
from resnetrt.benchmarks.stats.between_runs import mean_interval, rounds_error

# Ratio of eager's slow to its fast rounds. On quiet machines 1.0 to 1.28 (19 cells); on a virtual machine whose cores
# other guests shared, 1.2 to 2.0 (20 runs), while /proc/stat showed nothing.
UNSTEADY = 1.3
_WORTH_SAYING = 5.0  # least change of eager's time that is reported, in percent
VERDICT_HEADER = ("network", "engine", "batch", "slowdown %", "95 % interval", "runs", "finds from %", "verdict")

_REMEDY = "measure longer with --budget, or ask for at least six with --rounds"


def conclusions(record: BenchRecord) -> list[str]:
    """Fastest engine, cost of depth, where INT8 pays, distance from the limit, and whether the run was quiet."""
    parts = (_unfinished, _fastest, _int8, _fits, _limit, _against_peers, _start, _overhead, _noise)
    return [sentence for part in parts for sentence in part(record)]


def _unfinished(record: BenchRecord) -> Iterator[str]:
    if record.get("complete") is False:
        yield "INTERRUPTED: only what was measured until then is shown."


def _fastest(record: BenchRecord) -> Iterator[str]:
    """At each batch, the engine with the largest geometric mean speed-up over eager, and those that it may not beat."""
    for batch, rows in _by_batch(record["results"]):
        yield from _race(record, batch, _running(rows))
        few = [len(row["round_medians_ms"]) for row in rows if len(row["round_medians_ms"]) < ENOUGH_ROUNDS]
        if few:
            which = "no engine" if len(few) == len(rows) else f"{len(rows) - len(few)} of {len(rows)} cells"
            has = "has" if len(rows) - len(few) < 2 else "have"
            yield f"Batch {batch}: {which} {has} a factor. {no_ratio(min(few), _REMEDY)}."


Cells = dict[str, dict[str, ResultRow]]  # by engine and network


def _running(rows: Sequence[ResultRow]) -> Cells:
    """Our engines that have a factor."""
    cells: Cells = {}
    for row in rows:
        if row["engine"] not in PEERS and row["times_faster"]:
            cells.setdefault(row["engine"], {})[row["network"]] = row
    return cells


def _race(record: BenchRecord, batch: int, cells: Cells) -> Iterator[str]:
    """Engines compared on the same networks; an engine that lacks some of them is named and left out."""
    if not cells:
        return
    running, means = _means(cells)
    ranked = sorted(means, key=lambda engine: -means[engine][0])
    best, near = ranked[0], [engine for engine in ranked[1:] if not _beats(running[ranked[0]], running[engine])]
    count = len(min(running.values(), key=len))
    over = f", geometric mean over {count} networks" if count > 1 else ""
    words = baseline_words(record["results"])
    times = {engine: f"{mean:.1f} times [{low:.1f}, {high:.1f}]" for engine, (mean, low, high) in means.items()}
    if near:
        told = ", ".join(f"{engine} {times[engine]}" for engine in (best, *near))
        yield f"Batch {batch}: which is fastest is not told apart: {told} as fast as {words}{over}."
    else:
        yield f"Batch {batch}: {best} is fastest, {times[best]} as fast as {words}{over}."
    absent = sorted(set(cells) - set(running))
    if absent:
        yield f"Batch {batch}: not among them, as not all of these networks have it: {_list(absent)}."


def _means(cells: Cells) -> tuple[Cells, dict[str, tuple[float, float, float]]]:
    """The engines that have the most networks, and the mean factor of each over these networks, with its interval."""
    networks = max((frozenset(rows) for rows in cells.values()), key=len)
    running = {engine: rows for engine, rows in cells.items() if networks <= rows.keys()}
    return running, {engine: _mean(rows, networks) for engine, rows in running.items()}


def _mean(cells: Mapping[str, ResultRow], networks: Iterable[str]) -> tuple[float, float, float]:
    chosen = [cells[name] for name in sorted(networks)]
    return mean_interval(list(map(_factor, chosen)), list(map(_error, chosen)))


def _beats(first: Mapping[str, ResultRow], second: Mapping[str, ResultRow]) -> bool:
    """Whether the mean lead is significant; eager's time is the same for both and cancels."""
    both = sorted(first.keys() & second.keys())
    leads = [_factor(first[name]) / _factor(second[name]) for name in both]
    errors = [math.hypot(_error(first[name]), _error(second[name])) for name in both]
    return mean_interval(leads, errors)[1] > 1


def _error(row: ResultRow) -> float:
    factor = _factor(row)
    low, high = row.get("times_faster_ci") or (factor, factor)
    return (rounds_error(factor, low) + rounds_error(factor, high)) / 2


def _factor(row: ResultRow) -> float:
    """The factor of a row that has one, as those of `_running`."""
    assert row["times_faster"] is not None
    return row["times_faster"]


def _fits(record: BenchRecord) -> Iterator[str]:
    """What depth costs the fastest engine of each batch."""
    for batch, rows in _by_batch(record["results"]):
        cells = _running(rows)
        if cells:
            _, means = _means(cells)
            yield from _fit(record, max(means, key=lambda engine: means[engine][0]), batch)


def _fit(record: BenchRecord, engine: str, batch: int) -> Iterator[str]:
    for fit in record.get("fits", ()):
        if (fit["engine"], fit["batch"]) != (engine, batch):
            continue
        worst = max(fit["residual_percent"], key=lambda name: abs(fit["residual_percent"][name]))
        furthest = f"furthest from that line is {worst}, {fit['residual_percent'][worst]:+.0f} %."
        if not fit["is_line"]:
            yield f"{engine}, batch {batch}: time grows faster than GMACs, no line fits."
            continue
        fixed, slope = fit["fixed_ms_ci"], fit["ms_per_gmac_ci"]
        yield (
            f"{engine}, batch {batch}: {fit['fixed_ms']:.2f} ms [{fixed[0]:.2f}, {fixed[1]:.2f}] + "
            f"{fit['ms_per_gmac']:.3f} ms [{slope[0]:.3f}, {slope[1]:.3f}] a GMAC; {furthest}"
        )


def _int8(record: BenchRecord) -> Iterator[str]:
    """The depths where INT8 pays, where that is undecided, and where it does not, by the intervals of the ratios."""
    for line in record.get("break_even", ()):
        curve = line["curve"]
        paying = [point for point in curve if point["ci"][0] > 1]
        losing = [point for point in curve if point["ci"][1] < 1]
        unsure = [point for point in curve if point not in paying and point not in losing]
        few = line.get("few_rounds", ())
        one = len(curve) + len(few) == 1  # then its depth goes without saying
        said = []
        if paying:
            gain = [point["times_faster"] for point in paying]
            several = f"{min(gain):.1f} to {max(gain):.1f}" if len(gain) > 1 else f"{gain[0]:.1f}"
            said.append(f"pays{'' if one else _where_it_pays(line, paying)}, {several} times as fast as FP32")
        for words, points in (("is undecided", unsure), ("does not pay", losing)):
            where = "" if one else f" at depth {_list([point['depth'] for point in points])}"
            said += [f"{words}{where}"] if points else []
        if few:
            where = "" if one else f" at depth {_list([point['depth'] for point in few])}"
            said.append(f"is not compared{where}, {no_ratio(min(p['rounds'] for p in few), _REMEDY)}")
        yield f"{line['backend']}, batch {line['batch']}: INT8 {'; '.join(said)}."


def _where_it_pays(line: CrossingRow, paying: Sequence[RatioRow]) -> str:
    if line["always"]:
        return " at every measured depth"
    if paying[0]["depth"] == line["pays_from_depth"]:
        return f" from depth {line['pays_from_depth']} on"
    return f" at depth {_list([point['depth'] for point in paying])}"


def _limit(record: BenchRecord) -> Iterator[str]:
    """How far the fastest engine is from the roofline, at each batch."""
    for batch, rows in _by_batch([row for row in record["results"] if row.get("percent_of_floor")]):
        own = [row for row in rows if row["engine"] not in PEERS]
        best = min(own, key=lambda row: float(row["median_ms"]), default=None)
        cells = [row for row in own if best is not None and row["engine"] == best["engine"]]
        if best is not None:
            peak, floor, memory = (
                _extent([value for value in values if value is not None])
                for values in (
                    [row["percent_of_peak"] for row in cells],
                    [row["percent_of_floor"] for row in cells],
                    [row["memory_percent"] for row in cells],
                )
            )
            yield (
                f"Batch {batch}: {best['engine']} reaches {peak} % of the {best['precision']} matrix products measured "
                f"in this run, and {floor} % of what arithmetic and memory allow layer by layer; {memory} % of that "
                "least time is in layers that memory limits."
            )


def _against_peers(record: BenchRecord) -> Iterator[str]:
    """Our time divided by the closest peer's, for each way of measuring."""
    names = {ENGINE: "engine alone", ENGINE_IN_PLACE: "engine alone without transfers"}
    names |= {"frame": "from a uint8 frame", "jpeg": "from a JPEG"}
    groups: dict[tuple[str, int], list[RivalRow]] = {}
    for row in closest(record.get("against_peers", ())):
        groups.setdefault((row["source"], row["batch"]), []).append(row)
    for (source, batch), rows in groups.items():
        ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
        worst = max(rows, key=lambda row: row["ratio"] or 0.0)
        assert worst["ratio_ci"] is not None, "the closest have ratios"
        low, high = worst["ratio_ci"]
        extent = f"{min(ratios):.2f} to {max(ratios):.2f}" if len(rows) > 1 else f"{ratios[0]:.2f}"
        yield (
            f"Against the closest peer, {names[source]}, batch {batch}: {extent} of its time; {worst['network']} is "
            f"worst, {worst['engine']} against {worst['peer']} [{low:.2f}, {high:.2f}]."
        )
    few = [row["rounds"] for row in record.get("against_peers", ()) if row["ratio"] is None]
    if few:
        yield f"Against peers {len(few)} comparisons have no ratio. {no_ratio(min(few), _REMEDY)}."


def _start(record: BenchRecord) -> Iterator[str]:
    rows = sorted(record.get("memory", ()), key=lambda row: float(row["start_to_first_ms"]))
    if rows:
        told = [f"{row['start_to_first_ms'] / 1e3:.2f} s ({row['network']} {row['engine']})" for row in rows]
        span = " to ".join(dict.fromkeys((told[0], told[-1])))
        yield f"From the start of a process over import, load and self-test to the first outputs: {span}."


def _overhead(record: BenchRecord) -> Iterator[str]:
    for row in record.get("overhead", ()):
        low, high = row["overhead_ci_us"]
        yield (
            f"The runtime adds {row['overhead_us']:.1f} us [{low:.1f}, {high:.1f}] to {row['backend']}'s own call "
            f"({row['bare_us']:.0f} us on one small product, caches emptied before each call)."
        )


def _noise(record: BenchRecord) -> Iterator[str]:
    blocks = record.get("noise", ())
    marked = [block for block in blocks if block["disturbed"]]
    if marked:
        reasons = {f"{block['network']} batch {block['batch']}: {', '.join(block['reasons'])}" for block in marked}
        yield f"DISTURBED: {len(marked)} of {len(blocks)} blocks; {'; '.join(sorted(reasons))}."
    elif blocks:
        unsteady = _most_unsteady(record["results"])
        yield unsteady or "The machine was quiet in every block."


def _most_unsteady(rows: Iterable[ResultRow]) -> str:
    """The cell where eager's rounds differ most, if by more than on a quiet machine; empty if none does."""
    spreads = []
    for row in rows:
        if row["engine"] in BASELINES and len(row["round_medians_ms"]) >= ENOUGH_ROUNDS:
            low, high = np.quantile(row["round_medians_ms"], (0.1, 0.9))
            spreads.append((high / low, f"{row['network']} batch {row['batch']}: {low:.3g} to {high:.3g} ms"))
    worst, cell = max(spreads, default=(0.0, ""))
    if worst < UNSTEADY:
        return ""
    return (
        f"No other process used the cores, but the baseline's own rounds differ ({cell}, 10th to 90th percentile). "
        "A changing clock or other guests of the same host can do that, and no counter here shows it."
    )


def _extent(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def _by_batch(rows: Sequence[ResultRow]) -> Iterator[tuple[int, list[ResultRow]]]:
    for batch in sorted({row["batch"] for row in rows}):
        yield batch, [row for row in rows if row["batch"] == batch]


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def verdict_cells(cell: CellRow) -> tuple[str, ...]:
    """The cells of a table under `VERDICT_HEADER`."""
    runs = cell.get("runs", (1, 1))
    names = cell["network"], cell["engine"], str(cell["batch"])
    percent = cell.get("detectable_percent")
    finds = "-" if percent is None else f"+{percent:.1f}"
    return (*names, *slowdown_text(cell), f"{runs[0]} / {runs[1]}", finds, verdict_text(cell))


def verdict_text(cell: CellRow) -> str:
    """The verdict of a cell, why it is not a better one, and whether a baseline is missing."""
    why = list(_why_inconclusive(cell)) if cell["verdict"] == "INCONCLUSIVE" else []
    if cell["against"] not in BASELINES and cell["engine"] not in BASELINES:
        why.append(f"by time, without {BASELINE}")
    return f"{cell['verdict']}{': ' if why else ''}{'; '.join(why)}"


def _why_inconclusive(cell: Mapping[str, Any]) -> list[str]:
    if "runs" not in cell:  # from an earlier version: one run per side
        then, now = cell.get("rounds", (ENOUGH_ROUNDS, ENOUGH_ROUNDS))
        return [f"{then} rounds then, {now} now, {ENOUGH_ROUNDS} needed"] if min(then, now) < ENOUGH_ROUNDS else []
    why = [
        f"{cell[name][0]} runs then, {cell[name][1]} now {what}"
        for name, what in (("disturbed", "disturbed"), ("few_rounds", f"of fewer than {ENOUGH_ROUNDS} rounds"))
        if any(cell[name])
    ]
    then, now = cell["runs"]
    if cell["ci_percent"] is None and not why:
        why.append(f"{then} run then, {now} now tell no spread between runs; measure more with --runs 5")
    return why


def slowdown_text(cell: CellRow) -> tuple[str, str]:
    """The slowdown of a cell in percent and its interval; `-` if there are too few runs."""
    if cell["slowdown_percent"] is None or cell["ci_percent"] is None:
        return "-", "-"
    low, high = cell["ci_percent"]
    return f"{cell['slowdown_percent']:+.1f}", f"{low:+.1f} to {high:+.1f}"


def other_lines(regression: RegressionRecord) -> list[str]:
    """A line for each cell that only one side has, and for the machine's own change if that is 5 % or more."""
    lines = [f"gone, which fails: {name}" for name in regression.get("only_old", ())]
    lines += [f"new: {name}" for name in regression.get("only_new", ())]
    lines += [
        f"{row.get('engine', BASELINE)} itself took {row['change_percent']:+.1f} % of its time, "
        f"{row['network']} batch {row['batch']}: "
        "the machine, no verdict"
        for row in regression.get("machine", ())
        if abs(row["change_percent"]) >= _WORTH_SAYING
    ]
    return lines
