"""python -m tests.data.killed_runs ROOT OUT: prepare again and again, each run killed (-9) one step further.

A child is killed before and after each file that it moves into place, and one in between at a random time.
Prints the number of runs that were killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from pathlib import Path

import dfcore.data.parts as parts
from dfcore.data import prepare, scan
from tests.data.conftest import CONFIG

_MOST_RUNS = 60


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _run(root: Path, out: Path, step: int, seconds: float | None) -> None:
    """Prepare in this process, which does not survive its `step`-th move."""
    moves, move = 0, Path.replace

    def counted(self: Path, target: Path) -> Path:
        nonlocal moves
        moves += 1
        if moves == step:
            _die()
        moved = move(self, target)
        moves += 1
        if moves == step:
            _die()
        return moved

    Path.replace = counted  # type: ignore[method-assign,assignment]
    if seconds is not None:
        timer = threading.Timer(seconds, _die)
        timer.daemon = True
        timer.start()
    prepare(scan(root), out, CONFIG)


def main() -> None:
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    parts._MOST = 1
    chance = random.Random(0)  # noqa: S311  # when to kill, nothing secret
    for killed in range(_MOST_RUNS):
        child = os.fork()
        if child == 0:
            _run(root, out, killed + 1, chance.random() if killed % 4 == 3 else None)
            os._exit(0)
        chance.random()
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.stdout.write(f"{killed} {os.WEXITSTATUS(status)}\n")
            return
    raise SystemExit(f"not finished after {_MOST_RUNS} runs")


if __name__ == "__main__":
    main()
