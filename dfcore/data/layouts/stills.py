"""Stills on disk: folders that hold one video's frames, and archives that hold many."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

from dfcore.data.inputs import archive_members, frames_digest
from dfcore.data.layouts.listing import Listing, in_order
from dfcore.data.layouts.tree import IMAGES, VIDEOS, Tree, base, join, normal, parent, stem, suffix
from dfcore.errors import MediaError

__all__ = [
    "DUPLICATE",
    "Archive",
    "Medium",
    "Packed",
    "media",
    "read_archives",
    "set_aside",
    "stills_in",
    "without_suffix",
]

DUPLICATE = "the same content as"


class Medium(NamedTuple):
    """One video: its file, or the folder of its frames."""

    path: str
    name: str
    kind: Literal["video", "frames"] = "video"
    frames: tuple[str, ...] = ()
    cropped: bool = False


class Packed(NamedTuple):
    """Stills of one folder inside an archive, in display order, with their digest."""

    folder: str
    frames: tuple[str, ...]
    sha256: str


class Archive(NamedTuple):
    """What an archive holds, and what of it is no still; `error` says why it can't be read."""

    sequences: Sequence[Packed] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    error: str = ""


def media(tree: Tree, folder: str) -> list[Medium]:
    """List the videos of a folder: files, with or without a `videos` level; else extracted frames.

    `frames/<video>/` holds face crops (DeepfakeBench's preprocessing), `images/<video>/` whole frames
    (FaceForensics++'s extraction script).
    """
    inner = [join(folder, name) for name in tree.children.get(folder, ()) if normal(name) == "videos"]
    for place in (*inner, folder):
        files = tree.files(place, VIDEOS)
        if files:
            return [Medium(path, stem(path)) for path in files]
    for level, cropped in (("frames", True), ("images", False)):
        for place in tree.spelled(join(folder, level)):
            return [
                Medium(join(place, name), name, "frames", stills, cropped)
                for name in tree.children.get(place, ())
                if (stills := stills_in(tree, join(place, name)))
            ]
    return []


def set_aside(tree: Tree, listing: Listing) -> None:
    """Say why frames that were extracted from videos which are there too are left alone."""
    used = {found.path.rpartition("/")[0] for found in listing.found}
    for folder in tree.folders:
        head, _, last = folder.rpartition("/")
        if last in {"frames", "images"} and folder not in used and used & {head, join(head, "videos")}:
            listing.skipped[f"{folder}/"] = "extracted from videos that are there too"


def stills_in(tree: Tree, folder: str) -> tuple[str, ...]:
    """Return the names of a folder's images in display order."""
    return in_order(base(path) for path in tree.files(folder, IMAGES))


def read_archives(tree: Tree, paths: Sequence[str]) -> dict[str, Archive]:
    """Read which sequences archives hold; those of an earlier scan that did not change are not opened."""
    archives = {path: archive for path in paths if (archive := _known(tree, path)) is not None}
    todo = [path for path in paths if path not in archives]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done, (path, archive) in enumerate(
            zip(todo, pool.map(lambda p: _opened(tree, p), todo), strict=True), 1
        ):
            archives[path] = archive
            if tree.progress is not None:
                tree.progress(done, len(todo))
    return archives


def _known(tree: Tree, path: str) -> Archive | None:
    samples = [one for one in tree.known.get(path, ()) if (one.size, one.mtime_ns) == tree.stat(path)]
    skipped = tuple((one.path, one.reason) for one in tree.known_skipped if one.path.startswith(f"{path}/"))
    # a copy was left out for another one's sake, which may be gone now
    if not samples or any(reason.startswith(DUPLICATE) for _, reason in skipped):
        return None
    return Archive([Packed(parent(one.frames[0]), one.frames, one.sha256) for one in samples], skipped)


def _opened(tree: Tree, path: str) -> Archive:
    digests: dict[str, dict[str, str]] = defaultdict(dict)
    skipped = []
    try:
        for name, digest in archive_members(tree.root / path):
            if suffix(name) in IMAGES:
                digests[parent(name)][name] = digest
            else:
                skipped.append((join(path, name), "no image by its suffix"))
    except MediaError as error:
        return Archive(error=f"unreadable archive: {error}")
    return Archive([_packed(folder, named) for folder, named in sorted(digests.items())], tuple(skipped))


def _packed(folder: str, named: dict[str, str]) -> Packed:
    frames = in_order(named)
    return Packed(folder, frames, frames_digest((base(name), named[name]) for name in frames))


def without_suffix(path: str, suffixes: Iterable[str]) -> str:
    """Return the last part of a path without one of these suffixes."""
    name = base(path)
    for ending in suffixes:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name
