"""Steps that are shown while they run: name, time, and the last thing that each said."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rampart.output import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Steps"]

_SECONDS_BETWEEN_LINES = 10.0
_WIDTH = 22


class Steps:
    """A display of steps on stderr: live in a terminal, plain lines elsewhere.

    Attributes:
        seconds: how long each finished step took, in order.
        reused: the steps that found their work done already.
    """

    def __init__(self) -> None:
        """Prepare the display; it shows when entered."""
        self.seconds: dict[str, float] = {}
        self.reused: list[str] = []
        self._console = console()
        self._live: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._printed = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (
                SpinnerColumn(finished_text="✓"),
                TextColumn(f"{{task.description:<{_WIDTH}}}", markup=False),
                TimeElapsedColumn(),
                TextColumn("{task.fields[said]}", markup=False),
            )
            self._live = Progress(*columns, console=self._console)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def start(self, name: str, since: float | None = None) -> None:
        """Show a new step.

        Args:
            name: of the step.
            since: when it began on `time.monotonic`'s clock; None is now.
        """
        self._started[name] = time.monotonic() if since is None else since
        if self._live is not None:
            self._tasks[name] = self._live.add_task(name, total=1, said="")

    def say(self, name: str, text: str) -> None:
        """Show the last thing that a step said; "reused…" also counts the step as reused."""
        if text.startswith("reused"):
            self.reused.append(name)
        if self._live is not None:
            self._live.update(self._tasks[name], said=text)
        elif text.startswith("reused") or time.monotonic() - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            self._console.print(f"{name:<{_WIDTH}} {text}", markup=False)

    def finish(self, name: str) -> None:
        """Mark a step as done."""
        self.seconds[name] = round(time.monotonic() - self._started[name], 2)
        if self._live is not None:
            self._live.update(self._tasks[name], completed=1)
        else:
            self._console.print(f"{name:<{_WIDTH}} done in {self.seconds[name]:.1f} s", markup=False)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Run a block as a step.

        Yields:
            A callback for what the step says.
        """
        self.start(name)
        yield lambda text: self.say(name, text)
        self.finish(name)
