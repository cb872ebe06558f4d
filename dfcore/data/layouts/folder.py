"""Plain folders: [train|val|test/]{real,fake}/[method/[video/]]file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from dfcore.data.layouts.listing import Found, Listing, numbers_in
from dfcore.data.layouts.stills import stills_in
from dfcore.data.layouts.tree import IMAGES, VIDEOS, Tree, base, join, normal, stem, suffix
from dfcore.data.manifest import FAKE, REAL

__all__ = ["missing", "scan"]

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_LABELS = {
    **dict.fromkeys(("real", "reals", "0_real"), REAL),
    **dict.fromkeys(("fake", "fakes", "1_fake"), FAKE),
}
# without splits: 70 / 15 / 15 by the digest of the group
_VAL_FROM, _TEST_FROM = 0.70, 0.85
# below real/ or fake/: method/video/
_VIDEO_DEPTH = 2


def missing(tree: Tree) -> str:
    """Say what a tree lacks."""
    tops = _tops(tree)
    labels = {label for _, _, label in tops}
    if labels == {REAL, FAKE} or any(split for _, split, _ in tops):
        return ""
    return "real/ and fake/, at the top or in train/, val/, test/"


def scan(tree: Tree) -> Listing:
    """Read videos, images and folders of numbered stills; a name up to "__" is the group."""
    listing = Listing()
    for top, split, label in _tops(tree):
        for folder in tree.below(top):
            listing.found.extend(_in_folder(tree, top, folder, split, label))
    return listing


def _tops(tree: Tree) -> list[tuple[str, str, int]]:
    """List (folder, split or "", label); with split folders those at the top do not count."""
    found: list[tuple[str, str, int]] = []
    for place in ("", *tree.children.get("", ())):
        split = _SPLITS.get(normal(place), "")
        if split or not place:
            found += [
                (join(place, name), split, _LABELS[normal(name)])
                for name in tree.children.get(place, ())
                if normal(name) in _LABELS
            ]
    return [one for one in found if one[1]] or found


def _in_folder(tree: Tree, top: str, folder: str, split: str, label: int) -> Iterator[Found]:
    inside = folder[len(top) + 1 :]
    method = inside.partition("/")[0] or ("real" if label == REAL else "fake")
    stills = stills_in(tree, folder)
    packed = (
        inside.count("/") + 1 >= _VIDEO_DEPTH and len(stills) > 1 and all(numbers_in(s) >= 0 for s in stills)
    )
    if packed:
        # numbered stills two levels down are the frames of one video
        yield _found(folder, inside, split, label, method)._replace(kind="frames", frames=stills)
    for path in tree.files(folder, VIDEOS if packed else VIDEOS | IMAGES):
        # the file's type stays in the name: a.mp4 and a.png are two samples
        found = _found(path, join(inside, base(path)), split, label, method, stem(path))
        yield found._replace(kind="image" if suffix(path) in IMAGES else "video")


def _found(path: str, inside: str, split: str, label: int, method: str, name: str = "") -> Found:
    group = (name or base(path)).partition("__")[0]
    split = split or _split_of(f"folder:{group}")
    return Found(path, "folder", split, label, method, group, name=f"{split}/{inside}")


def _split_of(group: str) -> str:
    share = int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) / 16**8
    return "train" if share < _VAL_FROM else "val" if share < _TEST_FROM else "test"
