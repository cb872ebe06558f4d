"""Single crops out of a store's shards, straight into the caller's buffers; and where crops are kept."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from dfcore.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dfcore.data.store import CropStore

__all__ = ["Residence", "ShardReader", "available_memory", "choose_residence"]

Residence = Literal["device", "memory", "stream"]

# Shards open at once; a process may have about a thousand files open.
_OPEN_SHARDS = 64
# Share of what is free that crops may take: models, activations and attacks need the rest.
_SHARE = 0.5


class ShardReader:
    """Reads chosen rows of a store.

    Reading (rather than touching mapped pages) lets other threads run meanwhile, and the process does not
    grow by what the system keeps in its cache.

    Args:
        store: open.
        rows: numbers of the index's rows; what `read` calls places count from 0 within them.
    """

    def __init__(self, store: CropStore, rows: NDArray[np.int64]) -> None:
        self._store = store
        chosen = store.index.select(["shard", "row"]).take(pa.array(rows))
        shards = chosen["shard"].combine_chunks().dictionary_encode()
        self._names: list[str] = shards.dictionary.to_pylist()
        self._shard_of: NDArray[np.int64] = shards.indices.to_numpy().astype(np.int64)
        self._row_of: NDArray[np.int64] = chosen["row"].to_numpy()
        self._open: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self._lock = threading.Lock()  # no file may be closed while it is read
        side = store.config.image_size
        self._shape = (side, side, 3)
        self._bytes = side * side * 3

    @property
    def location(self) -> NDArray[np.int64]:
        """Rank of each place by where it lies on disk, (n,)."""
        by_name = np.argsort(np.argsort(np.array(self._names, dtype=np.str_)))
        rank = np.empty(len(self._row_of), dtype=np.int64)
        rank[np.lexsort((self._row_of, by_name[self._shard_of]))] = np.arange(len(rank))
        return rank

    def read(self, places: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Fill `out` (n, S, S, 3) with the crops at these places (n,).

        Raises:
            DataError: a shard is missing, too short, or holds crops of another size.
        """
        with self._lock:
            for target, place in zip(out, places.tolist(), strict=True):
                file, offset = self._find(place)
                count = os.preadv(file, [target.data], offset)
                if count != self._bytes:
                    name = self._names[int(self._shard_of[place])]
                    raise DataError(
                        f"expected {self._bytes} bytes of a crop in shard {name} of {self._store.path}, "
                        f"got {count}; run `rampart data verify`"
                    )

    def announce(self, places: NDArray[np.int64]) -> None:
        """Let the system fetch these crops from disk while others are worked on."""
        if not hasattr(os, "posix_fadvise"):  # not on every system
            return
        with self._lock:
            for place in places.tolist():
                file, offset = self._find(place)
                os.posix_fadvise(file, offset, self._bytes, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close every open shard; the reader can still be used."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1][0])

    def _find(self, place: int) -> tuple[int, int]:
        """Return the open file and the crop's first byte."""
        number = int(self._shard_of[place])
        if number in self._open:
            self._open.move_to_end(number)
        else:
            if len(self._open) >= _OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1][0])
            self._open[number] = self._open_shard(self._names[number])
        file, start = self._open[number]
        return file, start + int(self._row_of[place]) * self._bytes

    def _open_shard(self, name: str) -> tuple[int, int]:
        mapped = self._store.shard(name)
        assert isinstance(mapped, np.memmap)
        if mapped.dtype != np.uint8 or mapped.shape[1:] != self._shape or not mapped.flags.c_contiguous:
            raise DataError(
                f"expected crops {self._shape} uint8 in shard {name} of {self._store.path}, got "
                f"{mapped.shape[1:]} {mapped.dtype}; run `rampart data verify`"
            )
        return os.open(str(mapped.filename), os.O_RDONLY), int(mapped.offset)


def available_memory() -> int:
    """Return the bytes that this process may still take, the container's limit included."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fields = dict(line.split(":") for line in _lines(Path("/proc/meminfo")))
    if "MemAvailable" in fields:
        free = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    for limit in _lines(group / "memory.max"):
        if limit.isdigit():
            used = sum(int(line) for line in _lines(group / "memory.current"))
            cached = dict(line.split() for line in _lines(group / "memory.stat"))
            free = min(free, int(limit) - used + int(cached.get("inactive_file", 0)))
    return max(free, 0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []  # no Linux, or no limit


def choose_residence(
    asked: Literal["auto", "device", "memory", "stream"],
    num_bytes: int,
    device: torch.device,
    *,
    processes: int = 1,
) -> Residence:
    """Say where crops are kept.

    The first of device and memory of whose free bytes they take at most half; else they stay on disk.

    Args:
        asked: "auto" chooses.
        num_bytes: of all crops.
        device: where they are needed; only CUDA has a "device" beside "memory".
        processes: that share this machine's memory and keep as many crops each.

    Raises:
        ConfigError: what was asked for does not fit.
    """
    here = device.type != "cuda"
    # the driver knows the caching allocator's unused blocks as taken; they are few before training
    spaces: dict[Residence, int] = {} if here else {"device": torch.cuda.mem_get_info(device)[0]}
    spaces["memory"] = available_memory() // processes
    if asked == "auto":
        return next((name for name, space in spaces.items() if num_bytes <= space * _SHARE), "stream")
    wanted: Residence = "memory" if asked == "device" and here else asked
    if wanted != "stream" and num_bytes > spaces[wanted]:
        raise ConfigError(
            f"expected crops that fit into data.residence={asked}, got {num_bytes:,} bytes with "
            f"{spaces[wanted]:,} free; use data.residence=auto"
        )
    return wanted
