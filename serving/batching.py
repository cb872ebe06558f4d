"""Micro-batching: crops of requests that come together go through the network together."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from serving.admission import Overloaded
from serving.scoring import Crops, Scored, Scorer
from serving.settings import BatchSettings

__all__ = ["MicroBatcher"]


class _Waiting(NamedTuple):
    crops: Crops
    answer: Future[Scored]
    since: float


class MicroBatcher:
    """A scorer that gathers the crops of several threads.

    While a forward pass runs, new crops gather and go next; while none runs, the first crop waits
    `delay_seconds` for company. Nothing is reordered. Each thread brings one request at a time, so that the
    queue is as long as there are threads.

    Args:
        scorer: what runs the network; called from one thread at a time.
        settings: size and delay.
        deadline_seconds: crops that waited longer are not scored.
        threads: of PyTorch in one forward pass.
    """

    def __init__(
        self, scorer: Scorer, settings: BatchSettings, deadline_seconds: float, threads: int = 1
    ) -> None:
        self._scorer = scorer
        self._settings = settings
        self._deadline = deadline_seconds
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._runner = ThreadPoolExecutor(1, "rampart-network", torch.set_num_threads, (threads,))
        self._thread = threading.Thread(target=self._loop, name="rampart-batcher", daemon=True)
        self._thread.start()

    def score(self, crops: Crops) -> Scored:
        """Score crops together with those of other threads; see `Scorer`.

        Raises:
            Overloaded: they waited longer than the deadline.
        """
        item = _Waiting(crops, Future(), time.monotonic())
        with self._changed:
            closed = self._closed
            if not closed:
                self._waiting.append(item)
                self._changed.notify()
        # after closing there is no queue any more: the last requests of a replaced model
        return self._scorer.score(crops) if closed else item.answer.result()

    def close(self) -> None:
        """Score what waits, then end the thread; crops that come later are scored by who brings them."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._runner.shutdown()
        self._scorer.close()

    def _loop(self) -> None:
        while batch := self._gather():
            fresh = []
            for item in batch:
                if time.monotonic() - item.since <= self._deadline:
                    fresh.append(item)
                else:
                    item.answer.set_exception(Overloaded("deadline_seconds", self._deadline))
            if fresh:
                self._run(fresh)

    def _gather(self) -> list[_Waiting]:
        """Wait for crops; an empty list says that there will be none any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._waiting and not self._closed:
                until = self._waiting[0].since + self._settings.delay_seconds
                self._changed.wait_for(self._is_full, timeout=until - time.monotonic())
            batch: list[_Waiting] = []
            size = 0
            while self._waiting and (
                not batch or size + len(self._waiting[0].crops) <= self._settings.max_crops
            ):
                batch.append(self._waiting.popleft())
                size += len(batch[-1].crops)
            return batch

    def _is_full(self) -> bool:
        waiting = sum(len(item.crops) for item in self._waiting)
        return self._closed or waiting >= self._settings.max_crops

    def _run(self, batch: list[_Waiting]) -> None:
        crops = np.concatenate([item.crops for item in batch])
        # a future hands on every kind of failure, so that nobody waits for an answer that never comes
        running = self._runner.submit(self._scorer.score, crops)
        error = running.exception()
        start = 0
        for item in batch:
            stop = start + len(item.crops)
            if error is not None:
                item.answer.set_exception(error)
            else:
                item.answer.set_result(running.result().rows(start, stop))
            start = stop
