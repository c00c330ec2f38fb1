"""Tables on terminals of every width lose nothing."""

import re

import pytest

from resnetrt.cli.output import print_table

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
