"""Celeb-DF v1, v2 and Celeb-DF++.

The official list names the test videos, and 1 means real in it. There is no official validation split, so a
tenth of the training people is held out. The official test split shares people with the rest.

Source: yuezunli/celeb-deepfakeforensics and OUC-VAS/Celeb-DF-PP (README, list).
"""

from __future__ import annotations

import logging
import re
from collections import Counter

from dfcore.data.layouts.listing import Found, Listing
from dfcore.data.layouts.people import hold_out_people
from dfcore.data.layouts.stills import Medium, media, set_aside
from dfcore.data.layouts.tree import Tree, base, join, normal, parent
from dfcore.data.manifest import FAKE, REAL
from dfcore.errors import DataError

__all__ = ["FOLDERS", "missing", "people_in", "scan"]

logger = logging.getLogger(__name__)

_LIST = "List_of_testing_videos.txt"
FOLDERS = {"celeb_real": ("celeb-real", REAL), "youtube_real": ("youtube-real", REAL),
            "celeb_synthesis": ("celeb-synthesis", FAKE)}  # fmt: skip
_LEVELS = frozenset({"videos", "frames", "images"})
# real and fake test videos that only the first version's list names
_V1_TESTS = {REAL: 38, FAKE: 62}
_SHOWN = 3


def missing(tree: Tree) -> str:
    """Say what a tree lacks."""
    if not any(tree.spelled(name) for name in FOLDERS):
        return "Celeb-real/, YouTube-real/ or Celeb-synthesis/"
    return "" if _list_path(tree) else f"{_LIST}, which comes with the data set"


def scan(tree: Tree) -> Listing:
    """Read the videos (or the frames extracted from them) under the official list.

    Raises:
        DataError: a line of the list does not fit.
    """
    listing = Listing(read={_list_path(tree)})
    tests = _tests(tree)
    videos = [
        (place, name, label, medium)
        for spelled, (name, label) in FOLDERS.items()
        for top in tree.spelled(spelled)
        for place in tree.below(top)
        if normal(base(place)) not in _LEVELS and not _LEVELS & set(parent(place).split("/"))
        for medium in media(tree, place)
    ]
    dataset = _dataset(tests, videos)
    samples = []
    unseen = dict(tests)
    for place, name, label, medium in videos:
        key = _key(place, medium.name)
        listed = unseen.pop(key, None) is not None
        # of Celeb-DF++, the folder inside Celeb-synthesis/ is the method
        method = name if "/" not in place else base(place)
        found = Found(
            medium.path, dataset, "test" if listed else "train", label, method, "", "original", medium.name,
            medium.kind, medium.frames, "", medium.cropped,
        )  # fmt: skip
        samples.append((found, people_in(medium.name)))
    _report(tree, listing, tests, unseen, videos)
    listing.found, left_out = hold_out_people(samples)
    listing.skipped.update(left_out)
    listing.overlap_allowed = (dataset,)
    set_aside(tree, listing)
    return listing


def people_in(name: str) -> tuple[str, ...]:
    """Return the identities that a video's name gives: `id0_id16_0001`, or the number of a YouTube video."""
    return tuple(dict.fromkeys(re.findall(r"id\d+|(?<!\d)\d{5}(?!\d)", name))) or (name,)


def _list_path(tree: Tree) -> str:
    return next((name for name in tree.folders[""] if normal(name) == normal(_LIST)), "")


def _key(folder: str, name: str) -> str:
    parts = [part for part in normal(folder).split("/") if part not in _LEVELS]
    return join(*parts, name.casefold())


def _tests(tree: Tree) -> dict[str, tuple[str, int]]:
    """Read the list, in which 1 means real: key -> (what it says, label)."""
    listed: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(tree.text(_list_path(tree)).splitlines(), 1):
        if not line.strip():
            continue
        flag, _, name = line.strip().partition(" ")
        path = name.strip().replace("\\", "/")
        label = FOLDERS.get(normal(path.partition("/")[0]), ("", None))[1]
        if label is None or "/" not in path or flag != str(int(label == REAL)):
            raise DataError(
                f"expected '1 <real folder>/<file>' or '0 Celeb-synthesis/<file>' in {_LIST}, got {line!r} "
                f"(line {number}); get the official list"
            )
        key = _key(parent(path), base(path).rpartition(".")[0] or base(path))
        if key in listed:
            logger.warning("%s: line %d names %s again", _LIST, number, path)
        listed[key] = (path, label)
    return listed


def _dataset(tests: dict[str, tuple[str, int]], videos: list[tuple[str, str, int, Medium]]) -> str:
    if any(label == FAKE and "/" in place for place, _, label, _ in videos):
        return "celebdf_pp"
    return "celebdf_v1" if Counter(label for _, label in tests.values()) == _V1_TESTS else "celebdf"


def _report(
    tree: Tree, listing: Listing, tests: dict[str, tuple[str, int]], unseen: dict[str, tuple[str, int]],
    videos: list[tuple[str, str, int, Medium]],
) -> None:  # fmt: skip
    """Warn of listed videos that are not there, and of folders that the list says nothing about."""
    for path, _ in unseen.values():
        listing.skipped[path] = f"named in {_LIST}, not on disk"
    if unseen:
        shown = ", ".join(path for path, _ in list(unseen.values())[:_SHOWN])
        logger.warning(
            "%s: %d of %d listed test videos are missing (%s)", tree.root, len(unseen), len(tests), shown
        )
    for top in dict.fromkeys(place.partition("/")[0] for place, *_ in videos):
        if not any(key.startswith(f"{normal(top)}/") for key in tests):
            logger.warning(
                "%s names no video of %s, so all of it is taken for training; the list is incomplete, "
                "get the official one", _LIST, top,
            )  # fmt: skip
