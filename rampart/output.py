"""Where the commands write: progress and tables for people on stderr, one JSON document on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Json", "Set", "console", "emit", "progress_bar", "table"]

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="key=value on top of the named configuration.")]

_SECONDS_BETWEEN_LINES = 5.0


def console() -> Console:
    """Return a console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def emit(document: Any, as_json: bool, text: str | None = None) -> None:
    """Write a command's result to stdout.

    Args:
        document: plain data.
        as_json: write the document; otherwise the text.
        text: for people; None shows the document indented.
    """
    shown = json.dumps(document, indent=2, default=str) if as_json or text is None else text
    sys.stdout.write(f"{shown}\n")


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr, or a line every few seconds where stderr is no terminal.

    Yields:
        A callback for (done, total).
    """
    out = console()
    if not out.is_terminal:
        yield _lines(out, description)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Show a table on stderr."""
    from rich.table import Table

    grid = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        grid.add_row(*row)
    console().print(grid)


def _lines(out: Console, description: str) -> Callable[[int, int], None]:
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            out.print(f"{description}: {done}/{total}", markup=False)

    return report
