import io
import time

import pytest

from resnetrt import progress
from resnetrt.errors import UsageError
from resnetrt.progress import show, track, working


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def become_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Not a fixture: pytest's capture sets sys.stderr anew when the test itself begins."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("RESNETRT_PROGRESS", raising=False)
    return stream


def test_yields_the_items_in_order_without_a_terminal(capsys: pytest.CaptureFixture[str]):
    assert list(track(iter("abc"), "working", 3)) == ["a", "b", "c"]
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("total", [3, None])
@pytest.mark.parametrize("steps", [1, 8])
def test_draws_on_a_terminal_and_keeps_stdout_clean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], total: int | None, steps: int
):
    terminal = become_terminal(monkeypatch)
    assert list(track([1, 2, 3], "calibrating", total, "images", steps)) == [1, 2, 3]
    assert "calibrating" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_can_be_switched_off(monkeypatch: pytest.MonkeyPatch):
    terminal = become_terminal(monkeypatch)
    monkeypatch.setenv("RESNETRT_PROGRESS", "0")
    assert list(track([1, 2], "calibrating", 2)) == [1, 2]
    assert terminal.getvalue() == ""


def test_an_exception_of_the_source_comes_through(monkeypatch: pytest.MonkeyPatch):
    become_terminal(monkeypatch)

    def source() -> object:
        yield 1
        raise UsageError("no more")

    with pytest.raises(UsageError, match="no more"):
        list(track(source(), "working", 2))


def test_is_lazy():
    taken = []

    def source() -> object:
        for item in range(5):
            taken.append(item)
            yield item

    tracked = track(source(), "working", 5)
    assert next(tracked) == 0
    assert taken == [0]


def test_a_run_that_goes_on_counts_the_whole(monkeypatch: pytest.MonkeyPatch):
    terminal = become_terminal(monkeypatch)
    for _ in track([1], "evaluating", 180, "images", 50, done=150):
        assert "150/180" in terminal.getvalue()
    assert "180/180" in terminal.getvalue()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.1)
    monkeypatch.delenv("RESNETRT_PROGRESS", raising=False)


def test_a_pipe_gets_lines_with_the_time_left(impatient: None, capsys: pytest.CaptureFixture[str]):
    for _ in track(range(6), "evaluating", 370, "images", 50, done=100):
        time.sleep(0.11)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("evaluating: 150 of 370 images, ")
    assert lines[-1].startswith("evaluating: 370 of 370 images, ")  # the last batch has 20
    assert lines[-1].endswith(", about 0 s left")
    assert len(lines) == 6


def test_silent_work_is_told_and_only_the_innermost(impatient: None, capsys: pytest.CaptureFixture[str]):
    with working("exporting net"), working("tracing net"):
        time.sleep(0.35)
    told = capsys.readouterr().err.splitlines()
    assert set(told) == {"tracing net: 0 s so far"}
    assert 1 < len(told) < 6
    time.sleep(0.15)
    assert capsys.readouterr().err == ""


def test_work_that_speaks_itself_is_not_told(impatient: None, capsys: pytest.CaptureFixture[str]):
    with working("compiling"):
        for _ in range(10):
            show("a line")
            time.sleep(0.03)
    assert set(capsys.readouterr().err.splitlines()) == {"a line"}


def test_all_of_it_can_be_switched_off(
    impatient: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RESNETRT_PROGRESS", "0")
    with working("compiling"):
        for _ in track(range(3), "evaluating", 3):
            time.sleep(0.15)
    assert capsys.readouterr().err == ""


def test_an_error_ends_it(impatient: None):
    with pytest.raises(UsageError, match="no more"), working("compiling"):
        raise UsageError("no more")
    with pytest.raises(UsageError, match="no more"), working("the same"), working("the same"):
        raise UsageError("no more")
