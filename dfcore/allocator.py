"""The C library's allocator: what it keeps of freed memory, and when it gives it back."""

from __future__ import annotations

import ctypes
from functools import cache

__all__ = ["keep_freed_memory", "return_freed_memory"]

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER = -1
_PAD = 64 * 2**20  # bytes by which the heap grows beyond what is asked for


@cache
def keep_freed_memory() -> bool:
    """Keep freed blocks in this process instead of handing each back to the kernel.

    By default glibc maps every large block afresh, and the kernel zeroes its pages as they are touched: a
    sixth of a training step on a CPU, where every layer allocates its activations. The process keeps its peak
    of memory until it ends, and that peak is some 10 % higher. Done once a process; a C library without these
    settings stays as it is.

    Returns:
        Whether the allocator took the settings.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _PAD))
    return all(bool(library.mallopt(key, value)) for key, value in settings)


def return_freed_memory() -> None:
    """Give free memory back to the kernel, also from between blocks in use, which glibc does not by itself.

    A C library without this leaves it as it is.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
