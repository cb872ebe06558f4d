"""Frames that DeepfakeBench (or DF40) cut out, found through its `dataset_json/*.json`.

    {dataset: {label: {split: [{compression:] {video: {"label": …, "frames": […], "masks": […]}}}}}

Where its splits leak (a test video listed for training too; DeepFakeDetection in all three), a video is kept
once, in the split that nobody trains on.

Source: SCLBD/DeepfakeBench, preprocessing/rearrange.py and training/dataset/abstract_dataset.py.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dfcore.data.layouts.celebdf import FOLDERS, people_in
from dfcore.data.layouts.dfdc import preview_people
from dfcore.data.layouts.ffpp import dfd_people
from dfcore.data.layouts.listing import Found, Listing, in_order, read_json
from dfcore.data.layouts.people import group_people, hold_out_people
from dfcore.data.layouts.tree import Tree, base, join, normal, parent, stem
from dfcore.data.manifest import FAKE, REAL, SPLITS
from dfcore.errors import DataError

__all__ = ["missing", "scan"]

logger = logging.getLogger(__name__)

_FOLDERS = ("dataset_json", "preprocessing/dataset_json", "")
_QUALITIES = {"c23": "c23", "c40": "c40", "raw": "raw", "c0": "raw"}
# its label -> (data set, method); every other label's data set is the JSON's key
_LABELS = {
    "ff_real": ("ffpp", "original"), "ff_df": ("ffpp", "Deepfakes"), "ff_f2f": ("ffpp", "Face2Face"),
    "ff_fs": ("ffpp", "FaceSwap"), "ff_nt": ("ffpp", "NeuralTextures"), "ff_fh": ("ffpp", "FaceShifter"),
    "dfd_real": ("dfd", "original"), "dfd_fake": ("dfd", "DeepFakeDetection"),
}  # fmt: skip
_DATASETS = {
    "celeb_df_v1": "celebdf_v1", "celeb_df_v2": "celebdf", "celeb_df_pp": "celebdf_pp", "dfdcp": "dfdcp",
    "dfdc": "dfdc",
}  # fmt: skip
_SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "test": "test"}
# a video listed twice stays where it does the least harm
_SAFEST = {"test": 0, "val": 1, "train": 2}
_SHARED_TESTS = ("celebdf", "celebdf_v1", "celebdf_pp")


_OUTER = frozenset({"datasets", "rgb"})
_HEADING_LENGTH = 1000
_HEADING = re.compile(r'\s*\{\s*"[^"]+"\s*:\s*\{\s*"[^"]+"\s*:\s*\{\s*"(train|val|valid|test)"')


class _Video(NamedTuple):
    """One entry of a JSON."""

    source: str
    dataset: str
    label: str
    split: str
    compression: str
    name: str
    frames: list[str]
    masks: list[str]


def missing(tree: Tree) -> str:
    """Say what a tree lacks."""
    return "" if _lists(tree) else "dataset_json/*.json or preprocessing/dataset_json/*.json"


def scan(tree: Tree) -> Listing:
    """Read what the lists name and the disk has.

    Raises:
        DataError: a list is broken, or gives one video two labels.
    """
    listing = Listing(overlap_allowed=_SHARED_TESTS)
    videos: dict[tuple[str, str, str, str], Found] = {}
    twice: set[str] = set()
    places = _by_name(tree)
    for path in _lists(tree):
        listing.read.add(path)
        entries = list(_entries(tree, path))
        locate = _locator(tree, places, entries)
        for entry in entries:
            found = _found(tree, listing, entry, locate)
            if found is None:
                continue
            key = (found.dataset, found.method, found.compression, f"{found.path} {found.frames[:1]}")
            other = videos.setdefault(key, found)
            if other.label != found.label:
                raise DataError(
                    f"expected one label for {found.path}, got real and fake in {path}; get it again"
                )
            if other.split != found.split:
                twice.add(found.path)
                videos[key] = min(other, found, key=lambda one: _SAFEST[one.split])
    if twice:
        logger.warning(
            "%s: %d videos are listed in several splits (%s); each is kept in the one that trains least",
            tree.root, len(twice), min(twice),
        )  # fmt: skip
    listing.found = _grouped(listing, _told_apart(list(videos.values())))
    return listing


def _lists(tree: Tree) -> list[str]:
    folders = [folder for name in _FOLDERS for folder in tree.spelled(name)]
    return [path for folder in folders for path in tree.files(folder, {".json"}) if _fits(tree, path)]


def _fits(tree: Tree, path: str) -> bool:
    """Look at the beginning only: these lists can be large."""
    with (tree.root / path).open(encoding="utf-8", errors="replace") as stream:
        return _HEADING.match(stream.read(_HEADING_LENGTH)) is not None


def _entries(tree: Tree, path: str) -> Iterator[_Video]:
    for key, labels in _items(path, read_json(tree, path)):
        name, _, suffix = key.rpartition("_")
        given = suffix if suffix in _QUALITIES and name else ""
        for label, splits in _items(path, labels):
            for split, content in _items(path, splits):
                if split not in _SPLIT_NAMES:
                    raise DataError(
                        f"expected the splits {SPLITS} in {path}, got {split!r}; get the list again"
                    )
                for quality, videos in _levels(path, content):
                    compression = _QUALITIES.get(quality or given, "original")
                    for video, entry in _items(path, videos):
                        yield _Video(
                            path, name if given else key, label, _SPLIT_NAMES[split], compression, video,
                            *_stills(path, entry),
                        )  # fmt: skip


def _items(path: str, document: Any) -> list[tuple[str, Any]]:
    if not isinstance(document, dict):
        raise DataError(
            f"expected data set, label, split, [compression,] video and frames in {path}, got "
            f"{type(document).__name__} where an object belongs; get the list again"
        )
    return list(document.items())


def _levels(path: str, content: Any) -> list[tuple[str, Any]]:
    """Return (compression or "", videos): some data sets have a level more."""
    items = _items(path, content)
    if items and all(name in _QUALITIES for name, _ in items):
        return items
    return [("", content)]


def _stills(path: str, entry: Any) -> tuple[list[str], list[str]]:
    fields = dict(_items(path, entry))
    lists = [
        [str(name).replace("\\", "/") for name in fields.get(kind) or ()] for kind in ("frames", "masks")
    ]
    return lists[0], lists[1]


def _by_name(tree: Tree) -> Mapping[str, list[str]]:
    places: dict[str, list[str]] = defaultdict(list)
    for folder in tree.folders:
        places[base(folder)].append(folder)
    return places


class _Locator(NamedTuple):
    """How the lists' folders lie on this disk: without their first parts, below a folder."""

    strip: int
    below: str

    def __call__(self, folder: str) -> str:
        return join(self.below, *_parts(folder)[self.strip :])


def _parts(folder: str) -> list[str]:
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    while parts and normal(parts[0]) in _OUTER:
        parts = parts[1:]
    return parts


def _locator(tree: Tree, places: Mapping[str, list[str]], entries: list[_Video]) -> _Locator:
    """Compare folders until one is on disk: the lists were written on another machine."""
    for entry in entries:
        parts = _parts(parent(entry.frames[0])) if entry.frames else []
        for strip in range(len(parts) - 1):
            if "/".join(parts[strip:]) in tree.folders:
                return _Locator(strip, "")
        whole = "/".join(parts)
        for folder in places.get(parts[-1], ()) if parts else ():
            if folder.endswith(f"/{whole}"):
                return _Locator(0, folder[: -len(whole) - 1])
    return _Locator(0, "")


def _found(tree: Tree, listing: Listing, entry: _Video, locate: _Locator) -> Found | None:
    folder = locate(parent(entry.frames[0])) if entry.frames else ""
    present = tree.folders.get(folder, {}) if entry.frames else {}
    frames = in_order({base(name) for name in entry.frames if base(name) in present})
    if not frames:
        place = join(entry.source, entry.dataset, entry.label, entry.split, entry.name)
        listing.skipped[place] = "listed, but none of its frames is on disk"
        return None
    dataset, method, label = _names(entry, folder)
    masks = locate(parent(entry.masks[0])) if entry.masks else ""
    found = Found(
        folder, dataset, "test" if dataset == "dfd" else entry.split, label, method, "", entry.compression,
        entry.name, "frames", frames, masks if masks in tree.folders else "", True,
    )  # fmt: skip
    if len(entry.frames) == 1:
        # DF40's generators of whole images
        return found._replace(path=join(folder, frames[0]), kind="image", frames=())
    return found


def _names(entry: _Video, folder: str) -> tuple[str, str, int]:
    """Return (data set, method, label); a label that ends in "real" is real, every other one fake."""
    label = normal(entry.label)
    known = _LABELS.get(label)
    value = REAL if label.endswith("real") else FAKE
    if known:
        return *known, value
    dataset = _DATASETS.get(
        normal(entry.dataset), re.sub(r"[^a-z0-9]+", "_", normal(entry.dataset)).strip("_")
    )
    named = [part for part in map(normal, folder.split("/")) if part in FOLDERS]
    return dataset, FOLDERS[named[-1]][0] if named and dataset in _SHARED_TESTS else entry.label, value


def _told_apart(videos: list[Found]) -> list[Found]:
    """Give videos of one name in two folders their folder's path as name."""
    named: dict[str, list[Found]] = defaultdict(list)
    for found in videos:
        named[found.sample_id].append(found)
    return [
        found._replace(name=join(found.path, found.name)) if len(same) > 1 else found
        for same in named.values() for found in same
    ]  # fmt: skip


def _grouped(listing: Listing, videos: list[Found]) -> list[Found]:
    """Group by people; a data set without a validation split gets one."""
    by_dataset: dict[str, list[tuple[Found, tuple[str, ...]]]] = defaultdict(list)
    for found in videos:
        by_dataset[found.dataset].append((found, _people(found)))
    grouped = []
    for samples in by_dataset.values():
        if any(found.split == "val" for found, _ in samples):
            grouped += group_people(samples)
        else:
            named, left_out = hold_out_people(samples)
            listing.skipped.update(left_out)
            grouped += named
    return grouped


def _people(found: Found) -> tuple[str, ...]:
    name = stem(found.path) if found.kind == "image" else base(found.path)
    if found.dataset == "dfd":
        return dfd_people(name)
    if found.dataset in _SHARED_TESTS or re.match(r"id\d+_", name):
        return people_in(name)
    if found.dataset == "dfdcp":
        return preview_people(found.path, {})
    if re.fullmatch(r"\d{3}(_\d{3})?", name):
        return tuple(name.split("_"))
    return (re.sub(r"[_-]?(fake|real)$", "", name, flags=re.IGNORECASE) or name,)
