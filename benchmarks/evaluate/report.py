"""The gate's result for machines and reviewers: JUnit XML for CI, Markdown for a pull request."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from resnetrt.benchmarks.accuracy.gate import DATA, FAIL, INCONCLUSIVE, PASS, REFERENCE, SELFTEST, STATISTICS
from resnetrt.benchmarks.accuracy.looks import look_share
from resnetrt.benchmarks.accuracy.releases import NEW, NOT_ASKED, VANISHED

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
_NUMBERS = ("n", "fp32_top1", "top1", "drop_pp", "flips_percent", "sqnr_db")
_BASELINE_NUMBERS = ("n", "baseline_top1", "top1", "drop_pp")
_CLASSES, _FLIPS = 5, 10
Record = Mapping[str, Any]

HEADER = ("engine", "images", "FP32 top-1 %", "top-1 %", "drop pp", "flips %", "SQNR dB", "ECE change pp", "verdict")


def row_cells(row: Record) -> list[str]:
    """The cells of one engine, as `HEADER` names them."""
    low, high = row["drop_ci_pp"]
    return [
        row["engine"],
        counted(row),
        f"{row['fp32_top1']:.2f}",
        f"{row['top1']:.2f}",
        f"{row['drop_pp'] + 0.0:.2f} [{low:.2f}, {high:.2f}]",
        f"{row['flips_percent']:.2f}",
        f"{row['sqnr_db']:.1f}",
        f"{round(row['ece_change_pp'], 2) + 0.0:+.2f}",
        row["verdict"] or "-",
    ]


def counted(row: Record) -> str:
    """How many images an engine was judged on, and how many of them count."""
    copies = f" (+{row['copies']} copies that don't count)" if row["copies"] else ""
    return f"{row['n']}{_in_groups(row)}{copies}"


def _in_groups(row: Record) -> str:
    return "" if row["groups"] is None else f" in {row['groups']} groups"


def explain(row: Record, budget: Record) -> str:
    """One sentence on why an engine, or a row of `baseline`, got its verdict; empty without a verdict."""
    if row["verdict"] is None:
        return ""
    decided = row.get("verdict_why", STATISTICS)
    if decided == DATA:
        return str(row["doubt"])
    return _NOT_STATISTICS[decided] if decided in _NOT_STATISTICS else _statistics(row, budget)


def explain_baseline(row: Record, budget: Record) -> str:
    """The text for a row of `baseline`, after the engine's name."""
    if row["paired"] is None:
        verdict = "" if row["verdict"] is None else f"{row['verdict']}: "
        return f"since the baseline: {verdict}{_ALONE[row['verdict_why']]}"
    then = "" if row["baseline_engine"] == row["engine"] else f"{row['baseline_engine']}, "
    images = f"the same {row['n']} images{_in_groups(row)}" if row["paired"] else _UNPAIRED
    return (
        f"since the baseline ({then}{images}): {row['verdict']}: {row['baseline_top1']:.2f} -> "
        f"{row['top1']:.2f} %; {explain(row, budget)}"
    )


def _statistics(row: Record, budget: Record) -> str:
    low, high = row["gate_bounds"]
    sure = f"{100 * budget['confidence']:g} % sure"
    limit_pp = row.get("limit_pp", budget["max_drop_pp"])
    if limit_pp is not None:
        limit, best, worst, what = f"{limit_pp:.4g} pp", f"{low:.2f} pp", f"{high:.2f} pp", "drop"
    else:
        limit, best, worst, what = f"{budget['min_relative']:g}", f"{high:.4f}", f"{low:.4f}", "relative top-1"
    texts = {
        PASS: f"{sure} that the {what} is no worse than {worst}, inside the budget of {limit}",
        FAIL: f"{sure}{_of_all(row)} that the {what} is no better than {best}, outside the budget of {limit}",
        INCONCLUSIVE: f"the {what} may be anything from {best} to {worst}; the budget is {limit}{_more(row)}",
    }
    return texts[row["verdict"]] + _look(row)


def _of_all(row: Record) -> str:
    """Which verdicts share the promised probability of a wrong FAIL."""
    return "" if row.get("verdicts", 1) == 1 else f" (of all {row['verdicts']} verdicts together)"


def _look(row: Record) -> str:
    if (row.get("look") or 1) == 1:
        return ""
    return f"; look {row['look']} at this engine, for which {look_share(row['look']):.2%} of the doubt is left"


def _more(row: Record) -> str:
    if not row.get("paired", True):
        return ""  # the number that would decide is unknown
    if row["more_images"] is None:
        return "; the drop is so near the budget that no number of images would decide"
    what = "images" if row["groups"] is None else "groups"
    remember = "; store --results, so that another look at this engine counts as one" if _is_forgotten(row) else ""
    equal = row["more_images_if_equal"]
    if_equal = (
        "" if equal is None else f"would let it PASS if it is as good as the reference, about {row['more_images']} "
    )
    more = row["more_images"] if equal is None else equal
    return f"; about {more} more {what} {if_equal}would decide anyhow, with a chance of 90 %{remember}"


def _is_forgotten(row: Record) -> bool:
    return "look" in row and row["look"] is None


def to_junit(record: Record) -> bytes:
    """JUnit XML: one test case per engine, and one more for each row of `baseline`.

    INCONCLUSIVE becomes an error and FAIL a failure, because a CI shows them differently.
    """
    rows = [*record["engines"], *record["baseline"]]
    skipped = sum(row["paired"] is None and row["verdict"] is None for row in record["baseline"])
    failures = sum(row["verdict"] == FAIL for row in rows)
    errors = sum(row["verdict"] == INCONCLUSIVE for row in rows)
    counts = {"tests": str(len(rows)), "failures": str(failures), "errors": str(errors), "skipped": str(skipped)}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "resnetrt.evaluate", **counts})
    for row in record["engines"]:
        _add_case(suite, row["engine"], row, explain(row, record["budget"]), _NUMBERS)
    for row in record["baseline"]:
        why = explain_baseline(row, record["budget"])
        _add_case(suite, f"{row['engine']} since the baseline", row, why, _BASELINE_NUMBERS)
    ElementTree.indent(suites)
    return bytes(ElementTree.tostring(suites, "utf-8", xml_declaration=True)) + b"\n"


def _add_case(suite: ElementTree.Element, name: str, row: Record, why: str, numbers: Sequence[str]) -> None:
    case = ElementTree.SubElement(suite, "testcase", {"classname": "resnetrt.evaluate", "name": name})
    if row["verdict"] in (FAIL, INCONCLUSIVE):
        kind = "failure" if row["verdict"] == FAIL else "error"
        found = ElementTree.SubElement(case, kind, {"message": why, "type": row["verdict"]})
        found.text = _printable("\n".join([why, *row.get("hints", ())]))
    if row["verdict"] is None and why:
        ElementTree.SubElement(case, "skipped", {"message": why})
    out = ElementTree.SubElement(case, "system-out")
    out.text = ", ".join(f"{key} {row[key]:.6g}" for key in numbers if row[key] is not None)


def to_markdown(record: Record) -> str:
    """A comment for a pull request: table, reasons, classes that lose, worst flips, baseline, conditions."""
    lines = [f"### Accuracy gate: {_MARKS[record['verdict']]}", ""]
    if record["budget"]:
        lines += [f"Budget: {record['budget_text']}. Data: {record['data']}. Reference: {record['reference']}.", ""]
    lines += _table(HEADER, [row_cells(row) for row in record["engines"]])
    for row in record["engines"]:
        if row["verdict"] is not None:
            lines += ["", f"- **{row['engine']}**: {explain(row, record['budget'])}."]
        lines += [f"  - likely cause: {hint}" for hint in row.get("hints", ())]
        lines += [f"  - {line}" for line in _class_lines(row)]
        lines += _flip_lines(row)
    for row in record["baseline"]:
        lines += ["", f"- **{row['engine']}** {explain_baseline(row, record['budget'])}."]
    lines += ["", f"The bracketed interval of the drop is two-sided 95 %. {_conditions(record)}"]
    return "\n".join(lines) + "\n"


def _class_lines(row: Record) -> list[str]:
    losing = [item for item in row.get("classes", ()) if item["p_holm"] < 0.05][:_CLASSES]
    return [
        f"class {item['name']} loses {item['drop_pp']:.1f} pp of {item['n']} images (corrected p {item['p_holm']:.2g})"
        for item in losing
    ]


def _flip_lines(row: Record) -> list[str]:
    flips = row.get("flips", ())[:_FLIPS]
    if not flips:
        return []
    cells = [
        [f"`{item['image']}`", item["label"], item["reference"], item["candidate"], f"{item['candidate_margin']:.2g}"]
        for item in flips
    ]
    header = ("image", "label", "reference says", "engine says", "engine's margin")
    summary = f"<details><summary>{row['engine']}: the worst {len(flips)} flips</summary>"
    return ["", summary, "", *_table(header, cells), "", "</details>"]


def _conditions(record: Record) -> str:
    conditions = record["conditions"]
    versions = ", ".join(f"{name} {number}" for name, number in conditions["versions"].items())
    return f"Run on {conditions['cpu']}, {conditions['threads']} threads; {versions}."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + "|".join(["---"] * len(header)) + "|", *map(line, rows)]


def _printable(text: str) -> str:
    """The text without the control characters that XML 1.0 (section 2.2) forbids."""
    return "".join(char for char in text if char in "\t\n" or ord(char) >= 32)
