"""FaceForensics++ in all qualities with FaceShifter and DeepFakeDetection, and its mirror with c23 alone.

Source: ondyari/FaceForensics, dataset/README.md and dataset/splits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from dfcore.data.layouts.listing import Found, Listing, connected, read_json
from dfcore.data.layouts.stills import Medium, media, set_aside
from dfcore.data.layouts.tree import Tree, join
from dfcore.data.manifest import FAKE, REAL, SPLITS
from dfcore.errors import DataError

__all__ = ["METHODS", "QUALITIES", "dfd_people", "missing", "scan"]

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
QUALITIES = {"raw": "raw", "c0": "raw", "c23": "c23", "c40": "c40"}
_DFD = "DeepFakeDetection"
_ORIGINAL = "original"
_SPLIT_FOLDERS = ("", "splits", "dataset/splits")
_SHOWN = 3


class _Source(NamedTuple):
    """A folder of videos, and where the masks of its fakes may lie."""

    folder: str
    dataset: str
    method: str
    label: int
    compression: str
    masks: tuple[str, ...] = ()


def missing(tree: Tree) -> str:
    """Say what a tree lacks."""
    if tree.spelled("original_sequences") or tree.spelled("manipulated_sequences") or _mirrored(tree):
        return ""
    return (
        "original_sequences/ or manipulated_sequences/, nor the mirror's original/ beside Deepfakes/, "
        "Face2Face/ …"
    )


def scan(tree: Tree) -> Listing:
    """Read the videos (or the frames extracted from them) under the official split.

    Raises:
        DataError: the split is missing or broken, or does not name a video.
    """
    listing = Listing()
    videos = [(source, medium) for source in _sources(tree) for medium in media(tree, source.folder)]
    main = [(source, medium) for source, medium in videos if source.dataset == "ffpp"]
    if main:
        split_of, pairs = _splits(tree, listing)
        people = [_people(source, medium) for source, medium in main]
        unknown = [
            m.path for (_, m), ids in zip(main, people, strict=True) if not split_of.keys() >= set(ids)
        ]
        if unknown:
            raise DataError(
                f"expected every video's ids in the official split, got {len(unknown)} whose are not "
                f"({', '.join(unknown[:_SHOWN])}); remove or rename them"
            )
        group_of = connected([*pairs, *people])
        for (source, medium), ids in zip(main, people, strict=True):
            listing.found.append(_found(tree, source, medium, split_of[ids[0]], group_of[ids[0]]))
    actors = connected(dfd_people(medium.name) for source, medium in videos if source.dataset == "dfd")
    for source, medium in videos:
        if source.dataset == "dfd":
            # it has no official split; nobody trains on it
            listing.found.append(_found(tree, source, medium, "test", actors[dfd_people(medium.name)[0]]))
        listing.read.update(folder for folder in source.masks if folder in tree.folders)
    set_aside(tree, listing)
    return listing


def dfd_people(name: str) -> tuple[str, ...]:
    """Return the actors in a DeepFakeDetection video: `<target>_<source>__<scene>…`."""
    return tuple(name.partition("__")[0].split("_"))


def _people(source: _Source, medium: Medium) -> tuple[str, ...]:
    pattern = r"\d{3}" if source.label == REAL else r"\d{3}_\d{3}"
    return tuple(medium.name.split("_")) if re.fullmatch(pattern, medium.name) else (medium.name,)


def _mirrored(tree: Tree) -> bool:
    return bool(tree.spelled(_ORIGINAL)) and any(tree.spelled(method) for method in METHODS)


def _sources(tree: Tree) -> Iterator[_Source]:
    bases = [
        ("original_sequences/youtube", "ffpp", _ORIGINAL),
        ("original_sequences/actors", "dfd", _ORIGINAL),
    ]
    bases += [(f"manipulated_sequences/{method}", "ffpp", method) for method in METHODS]
    bases += [(f"manipulated_sequences/{_DFD}", "dfd", _DFD)]
    for spelled, dataset, method in bases:
        label = REAL if method == _ORIGINAL else FAKE
        for place in tree.spelled(spelled):
            masks = (*tree.spelled(f"{place}/masks"), *tree.spelled(f"masks/{place}/masks"))
            for quality, compression in QUALITIES.items():
                for folder in tree.spelled(f"{place}/{quality}"):
                    own = (*tree.spelled(f"{folder}/masks"), *masks, *tree.spelled(f"{place}/c23/masks"))
                    yield _Source(folder, dataset, method, label, compression, own if label == FAKE else ())
    if _mirrored(tree):
        for method in (_ORIGINAL, *METHODS, _DFD):
            for folder in tree.spelled(method):
                label, dataset = (
                    (REAL if method == _ORIGINAL else FAKE),
                    ("dfd" if method == _DFD else "ffpp"),
                )
                yield _Source(folder, dataset, method, label, "c23", tuple(tree.spelled(f"{folder}/masks")))


def _splits(tree: Tree, listing: Listing) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Read the official split: id -> split, and the pairs."""
    split_of: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for split in SPLITS:
        paths = [path for folder in _SPLIT_FOLDERS if tree.stat(path := join(folder, f"{split}.json"))]
        if not paths:
            raise DataError(
                f"expected the official {split}.json in {tree.root} or its splits/, got none; copy "
                "train.json, val.json and test.json from dataset/splits of github.com/ondyari/FaceForensics"
            )
        listing.read.add(paths[0])
        for pair in read_json(tree, paths[0]):
            if not (
                isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)
            ):
                raise DataError(
                    f"expected a list of id pairs in {paths[0]}, got {pair!r}; get the official one"
                )
            for name in pair:
                if split_of.setdefault(name, split) != split:
                    raise DataError(
                        f"expected id {name} in one split, got {split_of[name]} and {split}; get them again"
                    )
            pairs.append((pair[0], pair[1]))
    return split_of, pairs


def _found(tree: Tree, source: _Source, medium: Medium, split: str, group: str) -> Found:
    return Found(
        medium.path, source.dataset, split, source.label, source.method, group, source.compression,
        medium.name, medium.kind, medium.frames, _mask(tree, source, medium), medium.cropped,
    )  # fmt: skip


def _mask(tree: Tree, source: _Source, medium: Medium) -> str:
    for folder in source.masks:
        for place in (*tree.spelled(f"{folder}/videos"), folder):
            video = join(place, f"{medium.name}.mp4")
            if tree.stat(video) is not None:
                return video
        if join(folder, medium.name) in tree.folders:
            return join(folder, medium.name)
    return ""
