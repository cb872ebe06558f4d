"""Who gets in: a bounded queue before a few threads, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["Gate", "Overloaded"]

_Result = TypeVar("_Result")
_RETRY_SECONDS = 1


class Overloaded(Exception):
    """The server has more to do than it may queue; answered with a 429.

    Attributes:
        retry_after: seconds.
    """

    def __init__(self, limit: str, value: float, retry_after: int = _RETRY_SECONDS) -> None:
        super().__init__(f"expected a free place within {limit}={value:g}, got none; try again later")
        self.retry_after = retry_after


class Gate:
    """Runs work in its own threads; what does not fit into the queue is refused at once.

    Args:
        slots: how many threads.
        queue: how many requests may wait for one; more are refused.
        deadline_seconds: how long one may wait.
        name: of the queue's setting, for the refusal.
        begin: called once in each thread.
    """

    def __init__(
        self,
        slots: int,
        queue: int,
        deadline_seconds: float,
        name: str,
        begin: Callable[[], None] | None = None,
    ) -> None:
        self._limit = slots + queue
        self._queue = queue
        self._deadline = deadline_seconds
        self._name = name
        self._slots = asyncio.Semaphore(slots)
        self._threads = ThreadPoolExecutor(slots, f"rampart-{name}", initializer=begin)
        self.inside = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Take a place for the whole of a request.

        Raises:
            Overloaded: all are taken.
        """
        if self.inside >= self._limit:
            raise Overloaded(self._name, self._queue)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def run(self, work: Callable[..., _Result], *arguments: object) -> _Result:
        """Run one step of a request in a thread.

        Raises:
            Overloaded: no thread became free before the deadline.
        """
        try:
            async with asyncio.timeout(self._deadline):
                await self._slots.acquire()
        except TimeoutError as error:
            raise Overloaded("deadline_seconds", self._deadline) from error
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, work, *arguments)
        # a client that gives up does not free the thread: its slot comes back when the thread does
        future.add_done_callback(lambda _: self._slots.release())
        return await asyncio.shield(future)

    def close(self) -> None:
        """Let the threads end after their work."""
        self._threads.shutdown(wait=False)
