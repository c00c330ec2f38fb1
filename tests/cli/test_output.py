"""Tables and sentences on terminals of every width lose nothing."""

import os
import re

import pytest

from resnetrt.cli.output import print_table, print_words

HEADER = ("engine", "median ms [95 %]", "SQNR dB", "what to do")
ROWS = [("openvino-int8-cpu", "12.34 [11.92, 12.75]", "31.5", "keep it in a higher precision"), ("x", "-", "", "[gpu]")]


@pytest.fixture(params=[200, 90, 78, 60, 40, 20])
def printed(request, monkeypatch, capsys) -> list[str]:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal
    monkeypatch.setenv("COLUMNS", str(request.param))
    print_table("Engines", HEADER, ROWS)
    lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= request.param or request.param < 30
    return lines


def test_every_word_is_whole(printed):
    text = "\n".join(printed)
    assert "…" not in text
    for cell in (*HEADER, *(cell for row in ROWS for cell in row)):
        for word in cell.split():
            assert word in re.split(r"[\s│┃]+", text) or len(printed[0]) < 30, word


VERDICT = "openvino-int8-cpu: INCONCLUSIVE: 95 % interval of the drop [-0.10, 0.62] pp reaches over 0.5 pp; more images"


@pytest.mark.parametrize("columns", [120, 60, 30])
def test_a_sentence_breaks_between_words_on_a_terminal_only(columns, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    print_words(f"  {VERDICT}")
    first, *others = capsys.readouterr().out.splitlines()
    assert all(len(line) <= columns for line in (first, *others))
    assert " ".join(line.strip() for line in (first, *others)) == VERDICT
    assert (len(first) - len(first.lstrip()), *{len(line) - len(line.lstrip()) for line in others}) in {(2,), (2, 4)}


def test_a_sentence_stays_whole_in_a_pipe(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "30")
    print_words(VERDICT)
    assert capsys.readouterr().out == VERDICT + os.linesep
