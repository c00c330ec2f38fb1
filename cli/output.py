"""Printing shared by the commands: one JSON object, or tables, on stdout; notes on stderr."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click

from resnetrt.conditions import RESULT_SCHEMA_VERSION, conditions


def emit_json(record: dict[str, Any]) -> None:
    """Print one object with `schema_version` and `conditions` added. Raises `ValueError` for NaN."""
    whole = {"schema_version": RESULT_SCHEMA_VERSION, "conditions": conditions(), **record}
    click.echo(json.dumps(whole, indent=2, sort_keys=True, allow_nan=False))


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
    """Print a table; the first `left` columns are left-aligned, the others right-aligned."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", header_style="bold")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < left else "right", no_wrap=index < left)
    for row in rows:
        table.add_row(*map(escape, row))  # a cell such as [gpu] is text, not markup
    console = Console()
    if not console.is_terminal:  # a pipe or a file has no width: keep the rows whole
        console = Console(width=200)
    console.print(table)


def note(message: str) -> None:
    """Print a line for people, on stderr."""
    click.echo(message, err=True)
