"""From what a layout found to samples with digests; duplicates, and what is left over."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from dfcore.data.inputs import frames_digest
from dfcore.data.layouts.listing import Found, Listing
from dfcore.data.layouts.stills import DUPLICATE
from dfcore.data.layouts.tree import ARCHIVES, IMAGES, VIDEOS, FileStat, Tree, join, parent, suffix
from dfcore.data.manifest import Sample, Skipped
from dfcore.errors import DataError
from dfcore.provenance import sha256_file

__all__ = ["leftovers", "to_samples"]

# so many files of a folder that are skipped for one reason become one line
_COLLAPSED_FROM = 100
_SHOWN = 3
# A thread reads so many files in one go, as small images are not worth a hand-over each; few files are shared
# out one by one.
_BATCH, _BATCHES = 16, 64


def to_samples(tree: Tree, listing: Listing) -> tuple[list[Sample], list[Skipped]]:
    """Read what has no digest yet, and keep one of each set of equal files.

    Returns:
        The samples, and the duplicates and unreadable files that were left out.

    Raises:
        DataError: the same content in two splits or with two labels.
    """
    described = [_described(tree, found) for found in listing.found]
    samples = [sample for sample in described if sample.sha256]
    pending = [sample for sample in described if not sample.sha256]
    unreadable: list[Skipped] = []
    size = max(1, min(_BATCH, len(pending) // _BATCHES))
    batches = [pending[start : start + size] for start in range(0, len(pending), size)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        done = 0
        for digested in pool.map(lambda batch: [_digested(tree, sample) for sample in batch], batches):
            for one in digested:
                if isinstance(one, Sample):
                    samples.append(one)
                else:
                    unreadable.append(one)
            done += len(digested)
            if tree.progress is not None:
                tree.progress(done, len(pending))
    kept, twice = _without_duplicates(samples)
    return kept, [*unreadable, *twice]


def _described(tree: Tree, found: Found) -> Sample:
    """Fill a sample from what the walk knows; the digest comes from an earlier scan if nothing changed."""
    stat = _stat(tree, found)
    sample = Sample(
        found.sample_id, found.dataset, found.split, found.label, found.method, found.compression,
        f"{found.dataset}:{found.group}", found.path, found.sha256, found.kind, found.frames, found.mask,
        found.cropped, stat.size, stat.mtime_ns,
    )  # fmt: skip
    if not sample.sha256:
        for known in tree.known.get(found.path, ()):
            if (known.size, known.mtime_ns, known.frames) == (stat.size, stat.mtime_ns, found.frames):
                return replace(sample, sha256=known.sha256)
    return sample


def _stat(tree: Tree, found: Found) -> FileStat:
    own = tree.stat(found.path)
    if own is not None:
        return own
    stills = [tree.stat(join(found.path, name)) for name in found.frames]
    present = [stat for stat in stills if stat is not None]
    assert len(present) == len(found.frames), "layouts name only what the walk saw"
    return FileStat(sum(stat.size for stat in present), max(stat.mtime_ns for stat in present))


def _digested(tree: Tree, sample: Sample) -> Sample | Skipped:
    """Read the file or the stills for the digest; say why where they can't be read."""
    path = tree.root / sample.path
    try:
        if sample.kind == "frames":
            digest = frames_digest((name, sha256_file(path / name)) for name in sample.frames)
        else:
            digest = sha256_file(path)
    except OSError as error:
        return Skipped(sample.path, f"unreadable: {error.strerror}")
    return replace(sample, sha256=digest)


def _without_duplicates(samples: Iterable[Sample]) -> tuple[list[Sample], list[Skipped]]:
    """Empty files are equal without being copies, so they all stay and preparation reports each."""
    same: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    kept, twice, refused = [], [], []
    for sample in sorted(samples, key=lambda sample: sample.sample_id):
        if sample.size == 0:
            kept.append(sample)
            continue
        same[sample.dataset, sample.sha256].append(sample)
    for first, *others in same.values():
        kept.append(first)
        for other in others:
            if (other.split, other.label) != (first.split, first.label):
                refused.append(f"{first.path} and {other.path}")
            twice.append(Skipped(_place(other), f"{DUPLICATE} {_place(first)}"))
    if refused:
        raise DataError(
            f"expected each file in one split with one label, got {len(refused)} copies in another "
            f"({'; '.join(refused[:_SHOWN])}); remove one of each"
        )
    return kept, twice


def _place(sample: Sample) -> str:
    return join(sample.path, parent(sample.frames[0])) if sample.frames else sample.path


def leftovers(tree: Tree, listing: Listing, layout: str) -> list[Skipped]:
    """List every file that is no sample and belongs to none, and why."""
    used = _used(tree, listing)
    told = {path: reason for path, reason in listing.skipped.items() if not path.endswith("/")}
    folders = tuple(path for path in listing.skipped if path.endswith("/"))
    reasons, inside = dict(tree.skipped), Counter[str]()
    for folder, files in tree.folders.items():
        above = next((path for path in folders if f"{folder}/".startswith(path)), None)
        for name in files:
            path = join(folder, name)
            if above is not None:
                inside[above] += path not in used
            elif path not in used and path not in told:
                reasons[path] = _reason(path, layout)
    told |= {path: f"{listing.skipped[path]} (files: {inside[path]})" for path in folders}
    return [*(Skipped(*one) for one in told.items()), *_collapsed(reasons)]


def _used(tree: Tree, listing: Listing) -> set[str]:
    used: set[str] = set()
    for path in listing.read:
        if path in tree.folders:
            used.update(join(inner, name) for inner in tree.below(path) for name in tree.folders[inner])
        used.add(path)
    for found in listing.found:
        used.add(found.path)
        if found.path in tree.folders:
            used.update(join(found.path, name) for name in found.frames)
        if found.mask:
            used.add(found.mask)
            used.update(join(found.mask, name) for name in tree.folders.get(found.mask, ()))
    return used


def _reason(path: str, layout: str) -> str:
    if suffix(path) in VIDEOS | IMAGES or path.lower().endswith(ARCHIVES):
        return f"not where the layout {layout} has its samples"
    return "no video, image or archive by its suffix"


def _collapsed(reasons: dict[str, str]) -> list[Skipped]:
    many = Counter((parent(path), reason) for path, reason in reasons.items())
    kept = {
        Skipped(f"{folder}/", f"{reason} (files: {count})")
        for (folder, reason), count in many.items() if count >= _COLLAPSED_FROM
    }  # fmt: skip
    kept |= {
        Skipped(path, reason)
        for path, reason in reasons.items()
        if many[parent(path), reason] < _COLLAPSED_FROM
    }
    return sorted(kept)
