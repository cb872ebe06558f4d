"""Training input: crops on the device, in memory or streamed from disk, and the batches made of them.

Nothing in here waits for the device while batches are given out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from dfcore.data.blending import is_blendable, self_blend
from dfcore.data.sampling import Sampler, SamplingConfig, epoch_seed
from dfcore.data.shards import Residence, ShardReader, choose_residence
from dfcore.errors import ConfigError

if TYPE_CHECKING:
    from dfcore.data.store import CropStore

__all__ = ["Batch", "CropLoader", "SplitCrops"]

# Buffers: one is filled while the other one is used.
_SLOTS = 2
# Batches whose crops the system is asked to fetch from disk in advance.
_AHEAD = 4
# Crops read at once while a split is loaded.
_CHUNK = 256


class SplitCrops:
    """Chosen crops of a store, wherever they lie.

    Args:
        store: open.
        rows: of the store's index; places count from 0 within them.
        device: where batches are wanted.
        residence: where crops are kept; "auto" by what is free.

    Attributes:
        labels: (n,) int64 on the CPU.
        methods: (n,) strings.
        group_ids: distinct, sorted.
        residence: what was chosen.

    Raises:
        ConfigError: the crops do not fit where they were asked for.
        DataError: a shard is missing or damaged.
    """

    def __init__(
        self,
        store: CropStore,
        rows: NDArray[np.int64],
        *,
        device: torch.device,
        residence: Literal["auto", "device", "memory", "stream"] = "auto",
    ) -> None:
        self.device = device
        self.side = store.config.image_size
        self._store, self._rows = store, rows
        table = store.index.select(["label", "method", "group_id"]).take(pa.array(rows))
        self.labels = torch.from_numpy(table["label"].to_numpy().astype(np.int64))
        self.methods: NDArray[np.str_] = np.array(table["method"].to_pylist(), dtype=np.str_)
        self.group_ids: tuple[str, ...] = tuple(sorted(table["group_id"].unique().to_pylist()))
        self.residence: Residence = choose_residence(residence, len(rows) * self.side**2 * 3, device)
        self._reader = ShardReader(store, rows)
        self._images = None if self.residence == "stream" else self._load()

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def landmarks(self) -> torch.Tensor:
        """Five points of each face, (n, 5, 2) float32 in the crop's pixels, NaN where unknown; on the CPU."""
        column = self._store.index["landmarks"].take(pa.array(self._rows)).combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        return torch.from_numpy(values.reshape(-1, 5, 2))

    @property
    def location(self) -> NDArray[np.int64]:
        """Rank of each place by where it lies on disk, (n,)."""
        return self._reader.location

    def take(self, places: torch.Tensor) -> torch.Tensor:
        """Return the images at these places, (N, 3, H, W) float32 in [0, 1], channels last in memory."""
        return next(self.feed([places.cpu()]))

    def sweep(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield all images once, in order; a process's share of them: `feed(places[rank::world_size])`."""
        return self.feed(torch.split(torch.arange(len(self)), batch_size))

    def feed(self, batches: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the images of each batch of places, reading ahead where they do not lie on the device.

        Args:
            batches: places (N,) int64 on the CPU.

        Yields:
            (N, 3, H, W) float32 in [0, 1] on the device, channels last in memory.

        Raises:
            DataError: a shard is missing or damaged.
        """
        for pixels in self.pixels(batches):
            yield pixels.permute(0, 3, 1, 2).float().div_(255)

    def pixels(self, batches: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the same as (N, H, W, 3) uint8, each of which holds until the next one is asked for."""
        if self._images is not None and self._images.device.type == self.device.type:
            for places in batches:
                yield self._images.index_select(0, places.to(self.device, non_blocking=True))
            return

        def fill(number: int, buffer: torch.Tensor) -> None:
            if self._images is not None:
                torch.index_select(self._images, 0, batches[number], out=buffer)
                return
            for ahead in batches[1:_AHEAD] if number == 0 else batches[number + _AHEAD - 1 :][:1]:
                self._reader.announce(ahead.numpy())
            self._reader.read(batches[number].numpy(), buffer.numpy())

        try:
            yield from _filled_ahead(fill, [len(places) for places in batches], self.side, self.device)
        finally:
            self._reader.close()

    def _load(self) -> torch.Tensor:
        onto_device = self.residence == "device"
        shape = (len(self), self.side, self.side, 3)
        images = torch.empty(shape, dtype=torch.uint8, device=self.device if onto_device else "cpu")
        # in the order of the disk, whatever order the rows have
        order = np.argsort(self.location)
        for start in range(0, len(order), _CHUNK):
            places = order[start : start + _CHUNK]
            self._reader.announce(order[start + _CHUNK : start + 2 * _CHUNK])
            read = np.empty((len(places), *shape[1:]), dtype=np.uint8)
            self._reader.read(places, read)
            images[torch.from_numpy(places).to(images.device)] = torch.from_numpy(read).to(images.device)
        self._reader.close()
        return images


class Batch(NamedTuple):
    """One process's share of a batch.

    Attributes:
        images: (N, 3, H, W) float32 in [0, 1] on the device, channels last in memory.
        labels: (N,) int64 on the device; self-blended crops are fakes.
        places: (N,) int64 on the CPU, rows of the split.
        blended: (N,) bool on the CPU.
    """

    images: torch.Tensor
    labels: torch.Tensor
    places: torch.Tensor
    blended: torch.Tensor


class CropLoader:
    """Gives out epochs of batches; which crops these are follows from seed, epoch and step alone.

    Args:
        crops: one split.
        config: how crops become batches.
        seed: of the run.
        rank: of this process, among
        world_size: processes that share each batch.

    Attributes:
        batch_size: of the whole batch.
        steps: batches in an epoch.
        windowed: whether crops are shuffled within windows only, as they are when streamed.

    Raises:
        ConfigError: the settings contradict each other, the split's methods or the number of processes.
        DataError: a class that the settings need has no crop.
    """

    def __init__(
        self, crops: SplitCrops, config: SamplingConfig, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.crops = crops
        self.seed = seed
        self._rank, self._world_size = rank, world_size
        blendable = np.zeros(len(crops), dtype=bool)
        if config.self_blended:
            blendable = is_blendable(crops.landmarks.numpy(), crops.side)
        location = crops.location if crops.residence == "stream" else None
        self._sampler = Sampler(config, crops.labels.numpy(), crops.methods, blendable, location)
        self.batch_size = self._sampler.batch_size
        self.steps = self._sampler.steps
        self.windowed = self._sampler.windowed
        self.class_weights = self._sampler.class_weights()
        if self.batch_size % world_size:
            raise ConfigError(
                f"expected data.batch_size to be a multiple of the {world_size} processes, got "
                f"{self.batch_size}; choose another"
            )

    def __len__(self) -> int:
        return len(self.crops)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield this process's share of the batches of an epoch.

        Args:
            epoch: counts from 0.
            start: first step, for a run that goes on in mid-epoch.
        """
        seed = epoch_seed(self.seed, epoch)
        plan = self._sampler.plan(seed)
        shares = [plan.batch(step, self._rank, self._world_size) for step in range(start, self.steps)]
        # only a last batch that is kept though not full can leave a process without a crop
        shares = [share for share in shares if len(share[0])]
        feed = self.crops.feed([places for places, _ in shares])
        for step, (images, (places, blended)) in enumerate(zip(feed, shares, strict=True), start=start):
            labels = self.crops.labels[places]
            if blended.any():
                labels[blended] = 1
                self._blend(images, places, blended, (seed, step, self._rank))
            yield Batch(images, labels.to(images.device, non_blocking=True), places, blended)

    def _blend(
        self, images: torch.Tensor, places: torch.Tensor, blended: torch.Tensor, source: tuple[int, ...]
    ) -> None:
        """Replace the marked images by self-blended fakes."""
        device = images.device
        mixed = int(np.random.SeedSequence(source).generate_state(1, np.uint64)[0])
        generator = torch.Generator(device).manual_seed(mixed)
        which = torch.nonzero(blended).squeeze(1).to(device, non_blocking=True)
        landmarks = self.crops.landmarks[places[blended]].to(device, non_blocking=True)
        fakes, _ = self_blend(images.index_select(0, which), landmarks, generator)
        images.index_copy_(0, which, fakes)


class _Slot:
    """A buffer that one thread fills and copies to the device on a stream of its own."""

    def __init__(self, count: int, side: int, device: torch.device, stream: torch.cuda.Stream | None) -> None:
        self._device, self._stream = device, stream
        self._buffer = torch.empty((count, side, side, 3), dtype=torch.uint8, pin_memory=stream is not None)
        self._copied: torch.cuda.Event | None = None
        if stream is not None:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def fill(self, fill: Callable[[int, torch.Tensor], None], number: int, count: int) -> torch.Tensor:
        """Run in the reading thread, which alone waits for earlier copies."""
        buffer = self._buffer[:count]
        if self._stream is None or self._copied is None:
            fill(number, buffer)
            return buffer.to(self._device)
        self._copied.synchronize()
        fill(number, buffer)
        with torch.cuda.stream(self._stream):
            pixels = buffer.to(self._device, non_blocking=True)
            self._copied.record(self._stream)
        return pixels

    def arrived(self, future: Future[torch.Tensor]) -> torch.Tensor:
        """Return the pixels for use on the current stream, which waits for the copy; the host does not."""
        pixels = future.result()
        if self._copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(self._copied)
            pixels.record_stream(current)
        return pixels


def _filled_ahead(
    fill: Callable[[int, torch.Tensor], None], counts: Sequence[int], side: int, device: torch.device
) -> Iterator[torch.Tensor]:
    """Yield buffers (count, S, S, 3) uint8 on the device, filled in order by a thread that works ahead.

    On the CPU what was yielded holds until the next one is asked for.
    """
    stream = None
    if device.type == "cuda":
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    slots = [_Slot(max(counts, default=0), side, device, stream) for _ in range(_SLOTS)]
    pending: deque[tuple[_Slot, Future[torch.Tensor]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="crops") as pool:
        try:
            for number, count in enumerate(counts):
                if len(pending) == _SLOTS:
                    slot, future = pending.popleft()
                    yield slot.arrived(future)
                slot = slots[number % _SLOTS]
                pending.append((slot, pool.submit(slot.fill, fill, number, count)))
            for slot, future in pending:
                yield slot.arrived(future)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
