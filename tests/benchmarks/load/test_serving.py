import json

import pytest

from resnetrt.benchmarks.load.serving import main

# a pipe that is left open is noticed when it is freed, where an exception can only be reported
pytestmark = [
    pytest.mark.filterwarnings("error::ResourceWarning"),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]


def test_every_round_has_its_numbers(tiny_engine, capsys):
    assert main([tiny_engine, "--json", "--rounds", "2", "--seconds", "0.2", "--clients", "2", "--threads", "1"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["engine"] == "onnxruntime-fp32-cpu"
    assert len(record["served_shares"]) == len(record["added_ms"]) == 2
    assert min(record["bare_images_per_s"] + record["served_images_per_s"] + record["server_rss_mb"]) > 0
    for share, bare, served in zip(
        record["served_shares"], record["bare_images_per_s"], record["served_images_per_s"], strict=True
    ):
        assert share == pytest.approx(served / bare)
    for added, served in zip(record["added_ms"], record["served_ms"], strict=True):
        assert 0 < added["p50"] < served["p50"]


def test_people_get_a_sentence(tiny_engine, capsys):
    assert main([tiny_engine, "--rounds", "1", "--seconds", "0.1", "--clients", "1", "--threads", "1"]) == 0
    assert "over gRPC" in capsys.readouterr().out


def test_an_unknown_engine_is_exit_code_2(tiny_engine, capsys):
    assert main([tiny_engine, "--engine", "other"]) == 2
    assert "unknown engine" in capsys.readouterr().err


def test_a_server_that_does_not_start_is_told(tiny_engine, capsys):
    assert main([tiny_engine, "--max-batch-size", "0", "--threads", "1"]) == 4
    assert "before it listened" in capsys.readouterr().err
