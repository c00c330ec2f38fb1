import os
import re

import pytest

from resnetrt.errors import UsageError
from resnetrt.settings import Settings, changed_environment, read_settings


def test_defaults_without_variables():
    assert read_settings({}) == Settings(threads=len(os.sched_getaffinity(0)), debug=False, progress=True)


def test_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RESNETRT_THREADS", "1")
    monkeypatch.setenv("RESNETRT_DEBUG", "yes")
    monkeypatch.setenv("RESNETRT_PROGRESS", "0")
    monkeypatch.setenv("RESNETRT_DEVICE", " 1 ")
    assert read_settings() == Settings(threads=1, debug=True, progress=False, device="1")


@pytest.mark.parametrize("text", ["1", "true", "TRUE", "yes", "on", " On "])
def test_true_words(text: str):
    assert read_settings({"RESNETRT_DEBUG": text}).debug


@pytest.mark.parametrize("text", ["0", "false", "No", "off", "", "  "])
def test_false_words(text: str):
    settings = read_settings({"RESNETRT_DEBUG": text, "RESNETRT_PROGRESS": text})
    assert not settings.debug
    assert not settings.progress


@pytest.mark.parametrize("text", ["2", "maybe", "truee", "-1"])
def test_other_words_are_refused_not_guessed(text: str):
    with pytest.raises(UsageError, match=re.escape("RESNETRT_PROGRESS: expected one of 1, 0, true, false, yes, no")):
        read_settings({"RESNETRT_PROGRESS": text})


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "1e3", "²"])
def test_threads_must_be_a_positive_integer(text: str):
    with pytest.raises(UsageError, match=f"RESNETRT_THREADS: expected a positive integer, found '{re.escape(text)}'"):
        read_settings({"RESNETRT_THREADS": text})


def test_blank_threads_mean_the_default():
    assert read_settings({"RESNETRT_THREADS": " "}) == read_settings({})


def test_a_changed_environment_is_as_before_after_it_also_after_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RESNETRT_DEVICE", "1")
    monkeypatch.delenv("RESNETRT_CUDA", raising=False)
    before = dict(os.environ)
    during = {name: value for name, value in before.items() if name != "RESNETRT_DEVICE"} | {"RESNETRT_CUDA": "pycuda"}

    def look_and_fail() -> None:
        with changed_environment({"RESNETRT_DEVICE": None, "RESNETRT_CUDA": "pycuda"}):
            assert dict(os.environ) == during
            raise UsageError("planted")

    with pytest.raises(UsageError):
        look_and_fail()
    assert dict(os.environ) == before
