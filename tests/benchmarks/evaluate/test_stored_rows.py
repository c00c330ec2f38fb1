"""What `evaluate --json` holds of an engine stays as it is: compared with rows that an earlier version wrote."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnetrt.benchmarks.accuracy.classes import class_drops
from resnetrt.benchmarks.accuracy.comparison import Outcomes, PairedOutcomes
from resnetrt.benchmarks.accuracy.gate import Budget
from resnetrt.benchmarks.accuracy.gate_rows import gate_rows
from resnetrt.benchmarks.accuracy.looks import look_spending
from resnetrt.benchmarks.accuracy.outcomes import write_results
from resnetrt.benchmarks.accuracy.releases import BaselineRun, compare_releases
from resnetrt.benchmarks.evaluate.flips import worst_flips

STORED: dict[str, list[dict[str, Any]]] = json.loads(Path(__file__).with_name("stored_rows.json").read_bytes())
POINTS, RELATIVE = Budget(max_drop_pp=1.0), Budget(min_relative=0.9)
NAMES = [f"class {number}" for number in range(5)]
GROUPS = np.arange(240) // 4


def comparison(engines: str = "abc", groups: np.ndarray | None = None) -> PairedOutcomes:
    """Outcomes by arithmetic: a copy, an image under two labels, engines that lose little, much, and one class."""
    i = np.arange(240)
    labels, images = i % 7, i.astype(np.uint64)
    images[5], images[14] = 4, 0
    wrong = {"a": i % 60 == 1, "b": i % 5 == 0, "c": (labels == 2) & (i % 3 > 0)}

    def answers(is_wrong: np.ndarray, step: int) -> Outcomes:
        predicted = np.where(is_wrong, (labels + 1) % 7, labels)
        noise = (i % 6) / 100 * step
        return Outcomes(predicted, i % 17 != 0, (i * 37 % 101) / 10, 1.0 + i % 9, noise, 0.5 + (i % 50) / 100)

    made = {name: answers(wrong[name], step) for step, name in enumerate(engines, 1)}
    return PairedOutcomes(i, labels, images, answers(i % 11 == 0, 0), made, 3, groups)


def of_one_class(outcomes: PairedOutcomes) -> PairedOutcomes:
    return outcomes.at(outcomes.labels == 2)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every number, text and null by its place, each with its type."""
    if isinstance(value, (dict, list)) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, item in items for key, leaf in flat(item, f"{path}/{name}").items()}
    return {f"{path} {type(value).__name__}": str(value) if isinstance(value, (dict, list)) else value}


def check(name: str, rows: list[Any]) -> None:
    values = flat(json.loads(json.dumps([row.to_json() for row in rows], allow_nan=False)))
    # another processor may round the last bit otherwise
    assert values == {
        place: pytest.approx(leaf, rel=1e-9) if isinstance(leaf, float) else leaf
        for place, leaf in flat(STORED[name]).items()
    }


def test_rows_of_engines():
    spendings = dict.fromkeys("abc", look_spending(2, 3))
    check("no budget", gate_rows(comparison(), None))
    check("points", gate_rows(comparison(), POINTS, NAMES, spendings))
    check("relative", gate_rows(comparison(groups=GROUPS), RELATIVE, NAMES))
    check("one class", gate_rows(of_one_class(comparison()), POINTS, NAMES))


def test_classes_and_flips():
    outcomes = comparison()
    check("classes", class_drops(outcomes.reference, outcomes.candidates["c"], outcomes.labels, NAMES, GROUPS))
    check("flips", worst_flips(outcomes, "b", 3, NAMES, "image {}".format))


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_rows_since_a_baseline(tmp_path: Path, suffix: str):
    then = comparison("ba")
    write_results(tmp_path / "old.safetensors", then, {})
    (tmp_path / "old.json").write_text(json.dumps({"engines": [row.to_json() for row in gate_rows(then, None)]}))
    old = BaselineRun.read(tmp_path / f"old.{suffix}")
    check(f"since {suffix}", compare_releases(comparison(), old, POINTS, {"c": "b"}))
    part = comparison("ac", GROUPS)
    check(f"since {suffix}, a part", compare_releases(part, old, RELATIVE, {"c": "a"}, whole=False))
    check(f"since {suffix}, one class", compare_releases(of_one_class(comparison("ac")), old, POINTS))
