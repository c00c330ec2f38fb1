"""The search's budget holds for all of it, on a clock that a planted slow evaluator turns."""

import json
import re
import signal

import pytest
from planted_rows import with_verdict

from resnetrt.benchmarks.accuracy.gate import Budget
from resnetrt.benchmarks.search import run as search_run
from resnetrt.benchmarks.search.run import SearchRequest, SearchRun
from resnetrt.benchmarks.search.trial_engines import TrialEngines
from resnetrt.cli import run

IMAGES, BATCH = 300, 50
TRIAL_S = 30_000.0  # by the planted clock, so that what really takes seconds does not count
IMAGE_S = TRIAL_S / IMAGES


class SlowEvaluator:
    """A clock that trials and the confirmation turn; an image takes `seconds` of the number of images before it."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.images = 0.0, 0
        infer = TrialEngines.infer

        def slow(engines, opened):
            answer = infer(engines, opened)

            def answer_late(images):
                if len(images) > 1:  # not the timing's
                    self.now += seconds(self.images) * len(images)
                    self.images += len(images)
                return answer(images)

            return answer_late

        monkeypatch.setattr(TrialEngines, "infer", slow)

    def search(self, bundle, monkeypatch, budget_s, enough):
        """A search in which the gate passes with `enough` blocks or more."""
        request = SearchRequest("fashion_test", Budget(max_drop_pp=3), samples=2 * IMAGES, minutes=budget_s / 60)
        searcher = SearchRun(bundle, request, lambda: self.now)
        evaluate = searcher._evaluate

        def strict(engines, split, mix):
            return with_verdict(evaluate(engines, split, mix), "PASS" if len(mix.kept) >= enough else "FAIL")

        monkeypatch.setattr(searcher, "_evaluate", strict)
        monkeypatch.setattr(searcher, "_rank", lambda *_: ("fp32", [block.name for block in searcher.blocks]))
        return searcher.run()


def test_the_search_ends_early_enough_for_the_confirmation_and_the_timing(fashion_bundle, monkeypatch):
    """Trials with 0, 1, 2 and 4 blocks and the confirmation fit; with 3 blocks it would be one too many."""
    slow = SlowEvaluator(monkeypatch, lambda _: IMAGE_S)
    record = slow.search(fashion_bundle, monkeypatch, 5.2 * TRIAL_S, enough=3)
    assert (record["evaluations"], record["stopped"], len(record["kept"])) == (4, "out of time", 4)
    assert (record["held_out"]["n"], record["verdict"], record["left_out"]) == (IMAGES, "PASS", [])
    assert record["stored"] is not None
    assert len(record["front"]) == 5
    assert slow.now == pytest.approx(5 * TRIAL_S)


@pytest.mark.parametrize("slower", [1, 3])
@pytest.mark.parametrize("trials", [0.3, 3.3])
def test_at_most_one_batch_is_beyond_the_budget(fashion_bundle, monkeypatch, trials, slower):
    """Without a budget there are seven trials and a confirmation; `slower` is by how much from the second trial on."""
    slow = SlowEvaluator(monkeypatch, lambda seen: IMAGE_S * (1 if seen < IMAGES else slower))
    record = slow.search(fashion_bundle, monkeypatch, trials * TRIAL_S, enough=5)
    assert record["stopped"] == "out of time"
    assert slow.now <= trials * TRIAL_S + slower * BATCH * IMAGE_S


def test_a_confirmation_slower_than_all_before_decides_on_fewer_images(fashion_bundle, monkeypatch):
    slower = 12
    slow = SlowEvaluator(monkeypatch, lambda seen: IMAGE_S * (1 if seen < IMAGES else slower))
    record = slow.search(fashion_bundle, monkeypatch, 2.5 * TRIAL_S, enough=0)
    assert slow.now <= 2.5 * TRIAL_S + slower * BATCH * IMAGE_S
    assert (record["evaluations"], record["held_out"]["n"], record["verdict"]) == (1, BATCH, "INCONCLUSIVE")
    assert (record["stored"], record["front"]) == (None, [])
    assert record["left_out"][0] == "250 of 300 held-out images: out of time"
    assert re.fullmatch(r"the final timing of 2 variants: it takes about \d+ s, 0 s were left", record["left_out"][1])


def test_an_interrupt_of_the_final_timing_keeps_what_is_stored(fashion_bundle, monkeypatch, capsys):
    monkeypatch.setattr(search_run, "measure_front", lambda *_: signal.raise_signal(signal.SIGINT))
    command = ["search", str(fashion_bundle.path), "--data", "fashion_test", "--samples", "600", "--max-drop", "3"]
    assert run([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["left_out"] == ["the final timing of 2 variants: interrupted"]
    assert record["stored"]["engine"]
    assert run([*command, "--overwrite", "--budget", "1e-9"]) == 3
    said = "out of time before a variant was tried, so nothing is known; it needs more time"
    assert said in capsys.readouterr().out
