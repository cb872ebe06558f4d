"""From a manifest to a crop store: decode, detect, crop; resumable, and no work twice."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dfcore.data.claim import Inputs, claim
from dfcore.data.join import finish
from dfcore.data.manifest import Manifest, Sample
from dfcore.data.parts import Part, PartWriter, Shard, plan_parts
from dfcore.data.reading import Input, read_input
from dfcore.data.store import CropStore
from dfcore.errors import DataError
from dfcore.preprocessing import PreprocessingConfig

if TYPE_CHECKING:
    from dfcore.preprocessing import FaceCrop, FaceDetector

__all__ = ["Prepared", "fill_parts", "prepare", "prepare_shard"]

logger = logging.getLogger(__name__)

# What is searched for faces at once: at most so many inputs, and not much more than so many bytes of frames.
_BATCH_SAMPLES, _BATCH_BYTES = 8, 256 * 2**20

Progress = Callable[[int, int], None]


class Prepared(NamedTuple):
    """What a shard's run did: parts of its share, and how many of them were not there before."""

    parts: int
    new: int


def prepare(
    manifest: Manifest,
    out: Path,
    config: PreprocessingConfig,
    *,
    workers: int | None = 1,
    progress: Progress | None = None,
) -> CropStore:
    """Fill a crop store; a second call with the same manifest and settings does no work.

    A run that was broken off goes on where it stopped. A data set that has grown adds to its store; what did
    not change is kept. An input that can't be read, was altered since the scan, or shows no face is no error:
    `report.parquet` names it.

    Args:
        manifest: what to read.
        out: the store's folder.
        config: how faces are cut out.
        workers: processes that share the work; None is one for each core, or one on a GPU.
        progress: called with (samples done, samples in all).

    Returns:
        The finished store; its digest does not depend on the number of workers.

    Raises:
        DataError: `out` holds other content, or no input shows a face.
        WorkFailed: the disk is full, another run is filling `out`, or a worker died twice.
    """
    out = Path(out)
    inputs = Inputs.of(manifest, config)
    with claim(out, manifest, inputs) as work_left:
        if not work_left:
            return CropStore.open(out)
        _fill(plan_parts(manifest.samples, inputs.settings), manifest.root, out, config, workers, progress)
        return finish(out, manifest, inputs)


def prepare_shard(
    manifest: Manifest,
    out: Path,
    config: PreprocessingConfig,
    shard: Shard,
    *,
    workers: int | None = 1,
    progress: Progress | None = None,
) -> Prepared:
    """Do one shard's share of `prepare`, for `join_stores` to put together.

    Args:
        manifest: of the whole data set, the same for each shard.
        out: a folder of this shard, or one that all of them share.
        config: how faces are cut out.
        shard: which share; it depends on the samples alone.
        workers: processes that share the work; None is one for each core, or one on a GPU.
        progress: called with (samples done, samples of this shard).

    Returns:
        How many parts there are, and how many were made now.

    Raises:
        DataError: `out` holds other content.
        WorkFailed: the disk is full, or a worker died twice.
    """
    out = Path(out)
    inputs = Inputs.of(manifest, config)
    plan = plan_parts(manifest.samples, inputs.settings, shard)
    with claim(out, manifest, inputs, shard) as work_left:
        new = _fill(plan, manifest.root, out, config, workers, progress) if work_left else 0
    return Prepared(len(plan), new)


def _fill(  # the arguments of its two callers
    plan: Sequence[Part], root: Path, out: Path, config: PreprocessingConfig, workers: int | None,
    progress: Progress | None,
) -> int:  # fmt: skip
    """Make the parts that are not there; return how many."""
    if workers is not None and workers < 1:
        raise DataError(f"expected at least one worker, got {workers}")
    pending = [part for part in plan if not part.is_done(out)]
    total = sum(len(part.samples) for part in plan)
    done = total - sum(len(part.samples) for part in pending)

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    tick(0)
    if len(pending) > 1 and workers != 1:
        from dfcore.data.workers import share

        share(pending, root, out, config, workers or _cores(), tick)
    else:
        fill_parts(pending, root, out, config, tick)
    return len(pending)


def _cores() -> int:
    import torch

    return 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))


def fill_parts(  # a store's four, and how
    parts: Sequence[Part],
    root: Path,
    out: Path,
    config: PreprocessingConfig,
    tick: Callable[[int], None],
) -> None:
    """Make parts one after another.

    Args:
        parts: what to make.
        root: the manifest's root.
        out: the store's folder.
        config: how faces are cut out.
        tick: called with the number of samples done since the last call.

    Raises:
        WorkFailed: the disk is full.
    """
    if not parts:
        return
    # Not at the top: torch takes seconds to load, and a store that is whole needs none of it.
    import torch

    from dfcore.preprocessing import build_face_detector

    # One thread: how torch divides a convolution among threads shows in the last bits of a box, and a store
    # must not depend on the machine. Processes use the cores, and use them better.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        detector = build_face_detector(config, "cuda" if torch.cuda.is_available() else "cpu")
        _fill_parts(parts, root, out, config, detector, tick)
    finally:
        torch.set_num_threads(before)


def _fill_parts(  # as fill_parts, with the detector
    parts: Sequence[Part], root: Path, out: Path, config: PreprocessingConfig, detector: FaceDetector,
    tick: Callable[[int], None],
) -> None:  # fmt: skip
    for part in parts:
        with PartWriter(part, out, config.image_size) as writer:
            for inputs in _batches(part.samples, root, config):
                for one, crops in zip(inputs, _find(inputs, detector, config), strict=True):
                    _add(writer, one, crops)
                tick(len(inputs))
            writer.commit()


def _batches(samples: Sequence[Sample], root: Path, config: PreprocessingConfig) -> Iterator[list[Input]]:
    """Decode side by side and a few inputs ahead of the search; memory holds two batches at most.

    Where a batch ends depends on the inputs alone, never on time: the same part gives the same crops.
    """
    # a worker has one core: the second thread reads while the first computes
    alone = multiprocessing.parent_process() is None
    threads = min(_BATCH_SAMPLES, len(os.sched_getaffinity(0))) if alone else 2
    left = iter(samples)
    with ThreadPoolExecutor(max_workers=threads) as pool:
        ahead: deque[Future[Input]] = deque(
            pool.submit(read_input, root, sample, config) for sample in islice(left, threads + 1)
        )
        batch: list[Input] = []
        while ahead:
            batch.append(ahead.popleft().result())
            ahead.extend(pool.submit(read_input, root, sample, config) for sample in islice(left, 1))
            size = sum(frame.image.nbytes for one in batch for frame in one.frames)
            if len(batch) == _BATCH_SAMPLES or size >= _BATCH_BYTES or not ahead:
                yield batch
                batch = []


def _find(
    inputs: Sequence[Input], detector: FaceDetector, config: PreprocessingConfig
) -> list[list[FaceCrop]]:
    from dfcore.preprocessing import crop_whole, find_faces

    searched = [one for one in inputs if not one.sample.cropped]
    found = iter(
        find_faces([one.frames for one in searched], detector, config, masks=[one.masks for one in searched])
        if searched
        else ()
    )
    return [crop_whole(one.frames, detector, config) if one.sample.cropped else next(found) for one in inputs]


def _add(writer: PartWriter, one: Input, crops: Sequence[FaceCrop]) -> None:
    outcome, detail = one.outcome, one.detail
    if one.frames and not crops:
        outcome = "no_face"
    elif len(crops) < len(one.frames):
        detail = "; ".join(filter(None, (detail, f"a face in {len(crops)} of {len(one.frames)} frames")))
    if outcome != "ok":
        logger.warning("%s: %s %s", one.sample.sample_id, outcome, detail)
    row = {
        "sample_id": one.sample.sample_id, "path": one.sample.path, "outcome": outcome, "detail": detail,
        "num_frames": len(one.frames), "num_crops": len(crops),
    }  # fmt: skip
    writer.add(row, [_row(one.sample, crop) for crop in crops], [crop.image for crop in crops])


def _row(sample: Sample, crop: FaceCrop) -> dict[str, Any]:
    from dfcore.preprocessing import blur, face_size

    return {
        "crop_id": f"{sample.sample_id}#{crop.frame_index}",
        "sample_id": sample.sample_id,
        "frame_index": crop.frame_index,
        "timestamp": crop.timestamp,
        "box": crop.face.box.tolist(),
        "landmarks": crop.landmarks.reshape(-1).tolist(),
        "confidence": crop.face.confidence,
        "face_size": face_size(crop.face),
        "blur": blur(crop.image),
        "blockiness": crop.blockiness,
    }
