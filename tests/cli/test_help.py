"""`--help` describes every option, and sorts the options of a long command into sections."""

from collections.abc import Iterator

import click
import pytest

from resnetrt.cli import COMMANDS, cli

_LONG = 18  # options of a command that needs sections


def commands(group: click.Group, path: str = "resnetrt") -> Iterator[tuple[str, click.Command]]:
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            assert command is not None
            yield f"{path} {name}", command
            if isinstance(command, click.Group):
                yield from commands(command, f"{path} {name}")


ALL = dict(commands(cli))


def options(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


@pytest.mark.parametrize("path", ALL)
def test_every_option_is_described(path):
    assert [option.opts[0] for option in options(ALL[path]) if not option.help] == []


@pytest.mark.parametrize("path", ALL)
def test_a_long_list_of_options_has_sections_that_lose_none(path):
    command = ALL[path]
    sections = getattr(command, "sections", {})
    assert sections or len(options(command)) < _LONG
    text = command.get_help(click.Context(command, info_name=path))
    written = {line.split()[0].rstrip(",") for line in text.splitlines() if line.startswith("  -")}
    written -= {"-h", "--help"}  # which one comes first depends on whether the command ran in this process before
    assert written == {option.opts[0] for option in options(command)}
    titles = [line.removesuffix(":") for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert [title for title in titles if title not in ("Options", "Commands")] == list(sections.values())


def test_all_commands_are_looked_at():
    assert {f"resnetrt {name}" for name in COMMANDS} < set(ALL)
