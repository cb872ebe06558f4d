"""Work that leaves the processor to who answers requests."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["at_low_priority"]

_LOWEST = 19

T = TypeVar("T")


def at_low_priority(work: Callable[[], T]) -> T:
    """Call a function in a thread of its own that gets what others leave of the processor, and wait for it.

    Threads that it starts have its priority for good, so that what they are needed for later must not be
    started there. Beside Linux priority belongs to the process, and the function is called as it is.
    """
    with ThreadPoolExecutor(1, "rampart-low", initializer=_step_back) as alone:
        return alone.submit(work).result()


def _step_back() -> None:
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
