"""N streams beside the best batch of one caller."""

import json

import pytest

from resnetrt.benchmarks.load import streams


@pytest.fixture(autouse=True)
def short_calls(monkeypatch):
    monkeypatch.setattr(streams, "_CALL_S", 0.02)


def test_rates_are_per_frame_and_ratios_to_the_best_batch(tiny_engine, capsys):
    quick = ["--streams", "1,3", "--batches", "1,4", "--threads", "1", "--rounds", "6"]
    assert streams.main([tiny_engine, "--json", *quick]) == 0
    record = json.loads(capsys.readouterr().out)
    rates = {row["batch"]: row["frames_per_s"] for row in record["batches"]}
    assert record["best_batch"] == max(rates, key=rates.get)
    assert [(row["streams"], row["instances"]) for row in record["streams"]] == [(1, 1), (3, 1)]
    for row in record["streams"]:
        assert 0 < row["ratio_ci"][0] <= row["ratio"] <= row["ratio_ci"][1]
        assert row["ratio"] == pytest.approx(row["frames_per_s"] / rates[record["best_batch"]], rel=0.5)


def test_every_frame_of_every_stream_is_counted(tiny_engine):
    from resnetrt.golden import Golden
    from resnetrt.runtime import load
    from resnetrt.runtime.stream import Batcher

    with Batcher([load(tiny_engine, threads=1)], frames=True) as batcher:
        streams._drive(batcher, 3, 8, Golden.of(streams.Bundle.open(tiny_engine)).frames[:1])
        assert batcher.statistics.to_json()["inference_count"] == 3 * 8


def test_people_get_lines_and_an_unknown_engine_exit_code_2(tiny_engine, capsys):
    assert streams.main([tiny_engine, "--streams", "2", "--batches", "1", "--threads", "1", "--rounds", "1"]) == 0
    said = capsys.readouterr().out
    assert "2 streams, 1 instances:" in said
    assert "frames/s, n = 1: no ratio from fewer than six rounds; ask for at least six with --rounds" in said
    assert streams.main([tiny_engine, "--engine", "other"]) == 2
    assert "unknown engine" in capsys.readouterr().err
