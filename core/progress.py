"""Output of long work: lines, and progress bars that are drawn on a terminal only."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from resnetrt.settings import read_settings

T = TypeVar("T")
Say = Callable[[str], None]  # takes one line for people


def track(
    items: Iterable[T], label: str, total: int | None, unit: str = "it", steps: int | None = None, done: int = 0
) -> Iterator[T]:
    """Yield `items` while a bar shows the rate and the time left; `total` counts `items`, None if unknown.

    `steps` is how many `unit`s one item stands for (images in a batch), for the rate that is shown. In a resumed run
    `done` items are finished: `total` includes them, `items` has only the rest, and the rate is that of the rest. The
    bar is redrawn between items only, never by a thread, so that it does not disturb what is being timed.
    """
    import sys

    if not (read_settings().progress and sys.stderr.isatty()):
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit} {{task.fields[rate]}}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task = progress.add_task(label, total=total and total * (steps or 1), completed=done * (steps or 1), rate="")
        for item in items:
            yield item
            progress.advance(task, steps or 1)
            speed = progress.tasks[task].speed
            progress.update(task, rate=f"{speed:.0f}/s" if speed else "", refresh=True)
