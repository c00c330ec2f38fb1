"""The pages of docs/devices/ name extras, options and files that exist. Their commands need the devices."""

import re
import shlex

import click
import pytest
from source_tree import ROOT, read_setup_cfg

from resnetrt.cli import COMMANDS, cli

PAGES = sorted((ROOT / "docs" / "devices").glob("*.md"))


@pytest.fixture(params=PAGES, ids=lambda page: page.stem)
def text(request: pytest.FixtureRequest) -> str:
    return request.param.read_text()


def commands(text: str) -> list[list[str]]:
    """The words behind `resnetrt` of each indented line that runs it, without its comment."""
    lines = re.findall(r"^    (?:\.venv/bin/)?resnetrt (.*)$", text, re.MULTILINE)
    return [shlex.split(line.partition("  #")[0]) for line in lines]


def test_there_is_a_page_for_each_kind_of_device():
    assert [page.stem for page in PAGES] == ["jetpack-6", "jetpack-7", "l4-server", "raspberry-pi", "rtx-desktop"]


def test_each_page_goes_the_whole_road_and_says_what_was_not_run(text: str):
    names = [words[0] for words in commands(text)]
    assert "Not run on this hardware yet" in text
    assert [name for name in names if name in {"compile", "verify", "bench", "predict"}][:4] == [
        "compile",
        "verify",
        "bench",
        "predict",
    ]


def test_the_options_exist(text: str):
    for words in commands(text):
        assert words[0] in COMMANDS, words
        command = cli.get_command(click.Context(cli), words[0])
        if isinstance(command, click.Group):
            command = command.commands[words[1]]
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, words


def test_extras_and_links_exist(text: str):
    extras = {name for group in re.findall(r"\[([a-z0-9,-]+)\]['`]", text) for name in group.split(",")}
    assert extras <= set(read_setup_cfg()["options.extras_require"])
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / "docs" / "devices" / target).exists(), target


def test_a_venv_that_uses_the_systems_tensorrt_sees_it(text: str):
    if "system's packages" in text:
        assert "python3 -m venv --system-site-packages .venv" in text
