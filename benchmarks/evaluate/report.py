"""The gate's result for machines and reviewers: JUnit XML for CI, Markdown for a pull request."""

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from resnetrt.benchmarks.accuracy.gate import DATA, FAIL, INCONCLUSIVE, PASS, REFERENCE, SELFTEST, Budget, Verdict
from resnetrt.benchmarks.accuracy.gate_rows import GateRow, Look
from resnetrt.benchmarks.accuracy.looks import look_share
from resnetrt.benchmarks.accuracy.releases import NEW, NOT_ASKED, VANISHED, LoneEngine, ReleaseChange, ReleaseRow
from resnetrt.benchmarks.evaluate.record import EvaluatedEngine, EvaluateRecord
from resnetrt.conditions import plural

_MARKS = {PASS: "PASS", FAIL: "**FAIL**", INCONCLUSIVE: "INCONCLUSIVE", None: "-"}
_NOT_STATISTICS = {
    SELFTEST: "the engine fails its self-test, so it can't pass whatever its top-1",
    REFERENCE: "the FP32 reference is itself wrong on these images for a known cause, so it measures no engine",
}
_ALONE = {
    NEW: "the baseline has no such engine, so nothing is known of its change; store --results of this run as the next "
    "baseline, or name its older name with --baseline-engine NEW=OLD",
    VANISHED: "the baseline has this engine and the bundle no longer does; compile it again, or make a new baseline "
    "without it",
    NOT_ASKED: "not compared: --engine names others",
}
_UNPAIRED = "other images, so a wide interval; store --results to pair them"
CLASSES = 5  # at most so many that lose are named
_FLIPS = 10

HEADER = ("engine", "images", "FP32 top-1 %", "top-1 %", "drop pp", "flips %", "SQNR dB", "ECE change pp", "verdict")


def row_cells(row: GateRow) -> list[str]:
    """The cells of one engine, as `HEADER` names them."""
    accuracy = row.accuracy
    low, high = accuracy.drop_ci_pp
    return [
        row.engine,
        counted(row),
        f"{accuracy.fp32_top1:.2f}",
        f"{accuracy.top1:.2f}",
        f"{accuracy.drop_pp + 0.0:.2f} [{low:.2f}, {high:.2f}]",
        f"{accuracy.flips_percent:.2f}",
        f"{accuracy.sqnr_db:.1f}",
        f"{round(row.ece_change_pp, 2) + 0.0:+.2f}",
        row.verdict or "-",
    ]


def counted(row: GateRow) -> str:
    """How many images an engine was judged on, and how many of them count."""
    copies = f" (+{row.copies} copies that don't count)" if row.copies else ""
    return f"{row.accuracy.n}{_in_groups(row.accuracy.groups)}{copies}"


def _in_groups(groups: int | None) -> str:
    return "" if groups is None else f" in {groups} groups"


def explain(row: GateRow | ReleaseChange, budget: Budget) -> str:
    """One sentence on why an engine, or its change since the baseline, got its verdict; empty without a verdict."""
    decision = row.decision
    if decision is None:
        return ""
    if decision.why == DATA:
        return str(decision.doubt)
    if decision.why in _NOT_STATISTICS:
        return _NOT_STATISTICS[decision.why]
    if isinstance(row, GateRow):
        more = _more(decision, row.accuracy.groups, row.look)
        return _statistics(decision, budget, budget.max_drop_pp, row.look, more)
    # on other images the number that would decide is unknown
    more = _more(decision, row.groups, row.look) if row.paired else ""
    limit_pp = budget.max_drop_pp if row.limit_pp is None else row.limit_pp
    return _statistics(decision, budget, limit_pp, row.look, more)


def explain_baseline(row: ReleaseRow, budget: Budget) -> str:
    """The text for a row of `baseline`, after the engine's name."""
    if isinstance(row, LoneEngine):
        verdict = "" if row.verdict is None else f"{row.verdict}: "
        return f"since the baseline: {verdict}{_ALONE[row.why]}"
    then = "" if row.baseline_engine == row.engine else f"{row.baseline_engine}, "
    images = f"the same {row.n} images{_in_groups(row.groups)}" if row.paired else _UNPAIRED
    return (
        f"since the baseline ({then}{images}): {row.verdict}: {row.baseline_top1:.2f} -> "
        f"{row.top1:.2f} %; {explain(row, budget)}"
    )


def _statistics(decision: Verdict, budget: Budget, limit_pp: float | None, look: Look | None, more: str) -> str:
    low, high = decision.bound_low, decision.bound_high
    sure = f"{100 * budget.confidence:g} % sure"
    if limit_pp is not None:
        limit, best, worst, what = f"{limit_pp:.4g} pp", f"{low:.2f} pp", f"{high:.2f} pp", "drop"
    else:
        limit, best, worst, what = f"{budget.min_relative:g}", f"{high:.4f}", f"{low:.4f}", "relative top-1"
    texts = {
        PASS: f"{sure} that the {what} is no worse than {worst}, inside the budget of {limit}",
        FAIL: f"{sure}{_of_all(look)} that the {what} is no better than {best}, outside the budget of {limit}",
        INCONCLUSIVE: f"the {what} may be anything from {best} to {worst}; the budget is {limit}{more}",
    }
    return texts[decision.verdict] + _which_look(look)


def _of_all(look: Look | None) -> str:
    """Which verdicts share the promised probability of a wrong FAIL."""
    return "" if look is None or look.verdicts == 1 else f" (of all {look.verdicts} verdicts together)"


def _which_look(look: Look | None) -> str:
    if look is None or look.number in (None, 1):
        return ""
    return f"; look {look.number} at this engine, for which {look_share(look.number):.2%} of the doubt is left"


def _more(decision: Verdict, groups: int | None, look: Look | None) -> str:
    if decision.more_images is None:
        return "; the drop is so near the budget that no number of images would decide"
    what = "images" if groups is None else "groups"
    forgotten = look is not None and look.number is None
    remember = "; store --results, so that another look at this engine counts as one" if forgotten else ""
    equal = decision.more_images_if_equal
    if_equal = (
        "" if equal is None else f"would let it PASS if it is as good as the reference, about {decision.more_images} "
    )
    more = decision.more_images if equal is None else equal
    return f"; about {more} more {what} {if_equal}would decide anyhow, with a chance of 90 %{remember}"


def to_junit(record: EvaluateRecord) -> bytes:
    """JUnit XML: one test case per engine, and one more for each row of `baseline`.

    INCONCLUSIVE becomes an error and FAIL a failure, because a CI shows them differently.
    """
    verdicts = [*(row.gate.verdict for row in record.engines), *(row.verdict for row in record.baseline)]
    skipped = sum(isinstance(row, LoneEngine) and row.verdict is None for row in record.baseline)
    failures, errors = verdicts.count(FAIL), verdicts.count(INCONCLUSIVE)
    counts = {"tests": str(len(verdicts)), "failures": str(failures), "errors": str(errors), "skipped": str(skipped)}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "resnetrt.evaluate", **counts})
    for engine in record.engines:
        gate, accuracy = engine.gate, engine.gate.accuracy
        numbers = {
            "n": accuracy.n,
            "fp32_top1": accuracy.fp32_top1,
            "top1": accuracy.top1,
            "drop_pp": accuracy.drop_pp,
            "flips_percent": accuracy.flips_percent,
            "sqnr_db": accuracy.sqnr_db,
        }
        why = explain(gate, record.budget) if record.budget else ""
        _add_case(suite, gate.engine, gate.verdict, why, numbers, engine.hints or ())
    for row in record.baseline:
        why = explain_baseline(row, record.budget) if record.budget else ""
        _add_case(suite, f"{row.engine} since the baseline", row.verdict, why, _baseline_numbers(row))
    ElementTree.indent(suites)
    return bytes(ElementTree.tostring(suites, "utf-8", xml_declaration=True)) + b"\n"


def _baseline_numbers(row: ReleaseRow) -> dict[str, float]:
    if isinstance(row, LoneEngine):
        return {}
    return {"n": row.n, "baseline_top1": row.baseline_top1, "top1": row.top1, "drop_pp": row.drop_pp}


def _add_case(
    suite: ElementTree.Element,
    name: str,
    verdict: str | None,
    why: str,
    numbers: Mapping[str, float],
    hints: Sequence[str] = (),
) -> None:
    case = ElementTree.SubElement(suite, "testcase", {"classname": "resnetrt.evaluate", "name": name})
    if verdict in (FAIL, INCONCLUSIVE):
        kind = "failure" if verdict == FAIL else "error"
        problem = ElementTree.SubElement(case, kind, {"message": why, "type": verdict})
        problem.text = _printable("\n".join([why, *hints]))
    if verdict is None and why:
        ElementTree.SubElement(case, "skipped", {"message": why})
    out = ElementTree.SubElement(case, "system-out")
    out.text = ", ".join(f"{key} {value:.6g}" for key, value in numbers.items())


def to_markdown(record: EvaluateRecord) -> str:
    """A comment for a pull request: table, reasons, classes that lose, worst flips, baseline, conditions."""
    lines, budget = [f"### Accuracy gate: {_MARKS[record.verdict]}", ""], record.budget
    if budget:
        lines += [f"Budget: {budget}. Data: {record.data}. Reference: {record.reference}.", ""]
    lines += _table(HEADER, [row_cells(engine.gate) for engine in record.engines])
    for engine in record.engines:
        if budget:
            lines += ["", f"- **{engine.gate.engine}**: {explain(engine.gate, budget)}."]
        lines += [f"  - likely cause: {hint}" for hint in engine.hints or ()]
        lines += [f"  - {line}" for line in _class_lines(engine)]
        lines += _flip_lines(engine)
    for row in record.baseline:
        if budget:
            lines += ["", f"- **{row.engine}** {explain_baseline(row, budget)}."]
    lines += ["", f"The bracketed interval of the drop is two-sided 95 %. {_conditions(record)}"]
    return "\n".join(lines) + "\n"


def _class_lines(engine: EvaluatedEngine) -> list[str]:
    return [
        f"class {drop.name} loses {drop.drop_pp:.1f} pp of {drop.n} images (corrected p {drop.p_holm:.2g})"
        for drop in engine.losing_classes(CLASSES)
    ]


def _flip_lines(engine: EvaluatedEngine) -> list[str]:
    flips = engine.flips[:_FLIPS]
    if not flips:
        return []
    cells = [
        [f"`{flip.image}`", flip.label, flip.reference, flip.candidate, f"{flip.candidate_margin:.2g}"]
        for flip in flips
    ]
    header = ("image", "label", "reference says", "engine says", "engine's margin")
    summary = f"<details><summary>{engine.gate.engine}: the worst {len(flips)} flips</summary>"
    return ["", summary, "", *_table(header, cells), "", "</details>"]


def _conditions(record: EvaluateRecord) -> str:
    conditions = record.conditions
    versions = ", ".join(f"{name} {number}" for name, number in conditions["versions"].items())
    return f"Run on {conditions['cpu']}, {plural(conditions['threads'], 'thread')}; {versions}."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + "|".join(["---"] * len(header)) + "|", *map(line, rows)]


def _printable(text: str) -> str:
    """The text without the control characters that XML 1.0 (section 2.2) forbids."""
    return "".join(char for char in text if char in "\t\n" or ord(char) >= 32)
