"""Preparation in several processes of one machine; a process that dies is tried once more, alone."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from dfcore.data.parts import Part
from dfcore.errors import RampartError, WorkFailed
from dfcore.preprocessing import PreprocessingConfig

__all__ = ["share"]

logger = logging.getLogger(__name__)

_SECONDS_TO_STOP = 5.0
_Work = tuple[Path, Path, PreprocessingConfig]


class _Worker:
    """One process and its share of the parts."""

    def __init__(self, number: int, parts: Sequence[Part], work: _Work) -> None:
        self.number, self.parts, self.retried = number, list(parts), False
        self._work = work
        self.failure: str | None = None
        self.ticked = 0
        self.connection: Connection
        self.process: BaseProcess
        self.start()

    def start(self) -> None:
        # spawn: a forked torch may hold locks of threads that are not there any more
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(self.parts, self._work, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that the connection ends with the process

    def stop(self) -> None:
        self.process.kill()
        self.process.join(_SECONDS_TO_STOP)
        self.connection.close()


def share(  # as fill_parts, and how many
    parts: Sequence[Part], root: Path, out: Path, config: PreprocessingConfig, workers: int,
    tick: Callable[[int], None],
) -> None:  # fmt: skip
    """Make parts in several processes.

    Args:
        parts: what to make; the k-th of n processes makes every n-th.
        root: the manifest's root.
        out: the store's folder.
        config: how faces are cut out.
        workers: how many processes at most.
        tick: called with the number of samples done since the last call.

    Raises:
        WorkFailed: a process failed, or died twice.
    """
    count = min(workers, len(parts))
    running = [_Worker(k + 1, parts[k::count], (root, out, config)) for k in range(count)]
    try:
        while running:
            for ready in wait([worker.connection for worker in running]):
                worker = next(worker for worker in running if worker.connection is ready)
                if not _listen(worker, tick) and not _go_on(worker, out, count, tick):
                    running.remove(worker)
    finally:
        for worker in running:
            worker.stop()


def _listen(worker: _Worker, tick: Callable[[int], None]) -> bool:
    """Take one message; say whether the process still speaks."""
    try:
        message = worker.connection.recv()
    except EOFError:
        return False
    if isinstance(message, str):
        worker.failure = message
    else:
        worker.ticked += message
        tick(message)
    return True


def _go_on(worker: _Worker, out: Path, count: int, tick: Callable[[int], None]) -> bool:
    """Look at a process that ended: is all done, does it start again, or is it over?"""
    worker.process.join(_SECONDS_TO_STOP)
    code = worker.process.exitcode
    worker.connection.close()
    if worker.failure is not None:
        raise WorkFailed(worker.failure)
    left = [part for part in worker.parts if not part.is_done(out)]
    if not left:
        return False
    first = left[0].samples
    where = f"among {first[0].path} … {first[-1].path}"
    died = f"worker {worker.number} of {count} ended with code {code} (a negative code is a signal) {where}"
    if worker.retried:
        raise WorkFailed(
            f"{died}, twice; expected enough memory for each worker: give --workers a smaller number, or "
            "look for a file that crashes the decoder"
        )
    logger.warning("%s; its %d open parts are tried once more", died, len(left))
    kept = sum(len(part.samples) for part in worker.parts) - sum(len(part.samples) for part in left)
    tick(kept - worker.ticked)  # what it had done of the part in which it died is done again
    worker.parts, worker.retried = left, True
    worker.start()
    return True


def _work(parts: Sequence[Part], work: _Work, connection: Connection) -> None:
    """Run in the new process."""
    import cv2

    from dfcore.data.prepare import fill_parts

    cv2.setNumThreads(1)  # the other workers have the other cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt ends the run, and the run its workers
    parent = os.getppid()

    def tick(count: int) -> None:
        if os.getppid() != parent:
            raise SystemExit("the run that started this worker is gone")
        connection.send(count)

    root, out, config = work
    try:
        fill_parts(parts, root, out, config, tick)
    except RampartError as error:
        connection.send(str(error))  # it would fail again: the disk is full, the weights are missing
