"""Printing shared by the commands: one JSON object, or tables, on stdout; notes on stderr."""

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import click

from resnetrt.conditions import RESULT_SCHEMA_VERSION, conditions


def emit_json(record: Mapping[str, Any]) -> None:
    """Print one object with `schema_version` and `conditions` added. Raises `ValueError` for NaN."""
    whole = {"schema_version": RESULT_SCHEMA_VERSION, "conditions": conditions(), **record}
    click.echo(json.dumps(whole, indent=2, sort_keys=True, allow_nan=False))


_WIDEST = 10_000  # characters


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
    """Print a table; the first `left` columns are left-aligned, the others right-aligned.

    Nothing is cut off: on a narrow terminal the table loses its rules, breaks between words, or puts each cell on a
    line of its own.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    rows = list(rows)
    cells = [[escape(cell) for cell in row] for row in rows]  # a cell such as [gpu] is text, not markup
    console = Console()
    if not console.is_terminal:  # a pipe or a file has no width: keep the rows whole
        console = Console(width=_WIDEST)
    columns = list(zip(header, *rows, strict=True))
    looks: tuple[tuple[int, dict[str, Any]], ...] = ((3, {}), (1, {"box": box.SIMPLE_HEAD, "padding": 0}))
    for split, (between, look) in product((_whole, _words), looks):
        widths = _widths([split(column) for column in columns], console.width - between * len(columns) - 1)
        if widths:
            table = Table(title=title or None, title_justify="left", header_style="bold", **look)
            for index, (name, width) in enumerate(zip(header, widths, strict=True)):
                table.add_column(name, justify="left" if index < left else "right", width=width)
            for row in cells:
                table.add_row(*row)
            console.print(table)
            return
    console.print(title, style="bold")
    for row in cells:
        lines = Table("", "", box=None, show_header=False, pad_edge=False)
        for column in lines.columns:
            column.overflow = "fold"
        for name, cell in zip(header, row, strict=True):
            lines.add_row(name, cell)
        console.print(lines)
        console.print()


def _whole(column: Sequence[str]) -> tuple[int, int]:
    """The minimum and maximum width of a column whose cells each stay on one line."""
    most = max(map(len, column))
    return most, most


def _words(column: Sequence[str]) -> tuple[int, int]:
    """The minimum and maximum width of a column whose cells may break between words."""
    return max(len(word) for cell in column for word in cell.split() or [""]), max(map(len, column))


def _widths(limits: Sequence[tuple[int, int]], room: int) -> list[int]:
    """A width for each column, between its limits, with all columns within `room`; empty if that is impossible."""
    widths = [least for least, _ in limits]
    spare = room - sum(widths)
    if spare < 0:
        return []
    for index in sorted(range(len(limits)), key=lambda i: limits[i][1] - limits[i][0]):
        more = min(spare, limits[index][1] - widths[index])
        widths[index] += more
        spare -= more
    return widths


def print_words(text: str) -> None:
    """Print a line for people; a terminal that is too narrow breaks it between words, further lines indented.

    Lines with a command to copy are for `click.echo`: a terminal leaves out its own breaks when they are copied.
    """
    wide = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDEST
    indent = len(text) - len(text.lstrip())
    click.echo(
        "\n".join(
            textwrap.wrap(
                text.lstrip(),
                max(wide, 20),
                initial_indent=" " * indent,
                subsequent_indent=" " * (indent + 2),
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    )
