"""Which engine to deploy: everything that this machine can run is tried, and the fastest one that passes is kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from resnetrt.benchmarks.accuracy.gate import FAIL, INCONCLUSIVE, PASS, Budget, Spending
from resnetrt.benchmarks.accuracy.gate_rows import GateRow
from resnetrt.benchmarks.measure.latency import LatencyRow
from resnetrt.benchmarks.measure.timing import no_ratio, paired_ratio
from resnetrt.benchmarks.reports.report import Attempt
from resnetrt.bundle import Bundle
from resnetrt.errors import BackendMissing, CheckFailed, EnvironmentFault, UsageError
from resnetrt.export.compilers import COMPILERS, find_compiler
from resnetrt.export.compilers.engine import MIN_SHARE
from resnetrt.export.engines.compile import choose_variant, compile_variant
from resnetrt.progress import Say

HALF = ("fp16", "bf16")
_TRIED = ("fp32", *HALF, "int8")
CHOSEN, SLOWER, INACCURATE, WRONG = "chosen", "slower", "accuracy", "verification"
ABSENT, REFUSED = "not here", "refused"


def try_all(
    bundle: Bundle, min_share: float = MIN_SHARE, input_type: str = "float32", say: Say = lambda line: None
) -> Iterator[Attempt]:
    """Compile, verify and audit every precision on the default target of every backend; failures carry the reason.

    With `input_type` `uint8` the engines take frames. `say` gets a line when an attempt begins.
    """
    for backend in COMPILERS:
        for precision in _TRIED:
            say(f"try       {backend} {precision} ...")
            attempt = _try(bundle, backend, precision, min_share, input_type)
            yield attempt
            if attempt.outcome == ABSENT and precision == _TRIED[0]:
                break  # the backend itself is missing


def _try(bundle: Bundle, backend: str, precision: str, min_share: float, input_type: str) -> Attempt:
    compiler = find_compiler(backend)
    if precision in HALF and precision not in compiler.CASTS:
        return Attempt(backend, precision, None, ABSENT, f"{backend} does not compute in {precision}")
    try:
        target = compiler.resolve_target(None)
        obstacle = compiler.obstacle(target)
        if obstacle:
            return Attempt(backend, precision, None, ABSENT, obstacle)
        variant = choose_variant(bundle, backend, precision, input_type)
        engine = compile_variant(bundle, variant, backend, target, min_share=min_share)
    except CheckFailed as error:
        return Attempt(backend, precision, None, WRONG, str(error))
    except BackendMissing as error:
        return Attempt(backend, precision, None, ABSENT, str(error))
    except (EnvironmentFault, UsageError) as error:
        return Attempt(backend, precision, None, REFUSED, str(error))
    return Attempt(backend, precision, engine)


def share_among(engines: Sequence[str]) -> dict[str, tuple[Spending, Spending]]:
    """What the verdict on each of `engines` may spend if one of the passing engines is then chosen.

    The choice can fall on an engine that passed by luck, so the probabilities of all false PASSes must add up to at
    most the promised one.
    """
    share = Spending(1 / max(1, len(engines)), 1 / max(1, len(engines)))
    return dict.fromkeys(engines, (share, share))


def choice_claim(engines: int, budget: Budget) -> str:
    """The claim of a choice among so many judged `engines`."""
    return (
        f"the choice: outside the budget ({budget}) with a chance of at most {1 - budget.confidence:.2%}, over all "
        f"{engines} engines that were judged"
    )


def choose(attempts: Sequence[Attempt], accuracy: Sequence[GateRow], latency: Sequence[LatencyRow]) -> list[Attempt]:
    """The attempts with their numbers and outcomes; the fastest that PASSes comes first, the others are sorted by time.

    `accuracy` are rows of the gate; `latency` are rows of one batch size, measured side by side.
    """
    judged, timed = {row.engine: row for row in accuracy}, {row["engine"]: row for row in latency}
    measured = [_with_numbers(item, judged, timed) for item in attempts]
    passing = [item for item in measured if item.engine is not None and item.verdict == PASS]
    best = min(passing, key=_ms, default=None)
    ended = [_end(item, best, judged, timed) for item in measured]
    return sorted(ended, key=lambda item: (item.outcome != CHOSEN, item.median_ms is None, item.median_ms or 0.0))


def verdict(attempts: Sequence[Attempt]) -> str:
    """PASS if an engine was chosen, INCONCLUSIVE if more images might have let one pass, else FAIL."""
    if any(item.outcome == CHOSEN for item in attempts):
        return PASS
    return INCONCLUSIVE if any(item.verdict == INCONCLUSIVE for item in attempts) else FAIL


def keep_only(bundle: Bundle, engine: str) -> None:
    """Drop every other engine of the bundle."""
    with bundle.edit() as editor:
        for name in [name for name in editor.manifest.engines if name != engine]:
            editor.drop_engine(name)


def _with_numbers(item: Attempt, judged: Mapping[str, GateRow], timed: Mapping[str, LatencyRow]) -> Attempt:
    if item.engine is None:
        return item
    row = judged[item.engine]
    ms = timed[item.engine]["median_ms"]
    return replace(item, median_ms=ms, drop_pp=row.accuracy.drop_pp, verdict=row.verdict)


def _end(
    item: Attempt, best: Attempt | None, judged: Mapping[str, GateRow], timed: Mapping[str, LatencyRow]
) -> Attempt:
    if item.engine is None:
        return item
    if item == best:
        return replace(item, outcome=CHOSEN, why="the fastest that passes")
    if item.verdict != PASS:
        row = judged[item.engine]
        low, high = row.accuracy.drop_ci_pp
        doubt = row.decision and row.decision.doubt
        why = doubt or f"drop {item.drop_pp:.2f} [{low:.2f}, {high:.2f}] pp"
        return replace(item, outcome=INACCURATE, why=f"{item.verdict}: {why}")
    assert best is not None
    assert best.engine is not None
    own, least = (timed[name]["round_medians_ms"] for name in (item.engine, best.engine))
    slowdown = paired_ratio(own, least)
    if slowdown is None:
        return replace(item, outcome=SLOWER, why=no_ratio(len(own), "deploy again where the machine is quiet"))
    # the chosen one has the smallest median; paired by rounds, another may be as fast
    apart = "" if slowdown.low > 1 else "not told apart: "
    why = f"{apart}takes {slowdown.value:.2f} times as long [{slowdown.low:.2f}, {slowdown.high:.2f}]"
    return replace(item, outcome=SLOWER, why=why)


def _ms(item: Attempt) -> float:
    assert item.median_ms is not None
    return item.median_ms
