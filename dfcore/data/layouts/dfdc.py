"""DFDC (training parts, test labels) and its preview.

Fakes share their people with the original, and a part shares its actors, so validation is split by part where
there are enough, else by original.

Source: metadata.json of the data set; DeepfakeBench and selimsef/dfdc_deepfake_challenge for the conventions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dfcore.data.layouts.listing import Found, Listing, connected, held_out, read_csv, read_json
from dfcore.data.layouts.people import hold_out_people
from dfcore.data.layouts.tree import Tree, base, join, parent, stem
from dfcore.data.manifest import FAKE, REAL
from dfcore.errors import DataError

__all__ = ["missing", "preview_people", "scan"]

_METADATA, _PREVIEW, _LABELS = "metadata.json", "dataset.json", "labels.csv"
_KINDS = {"real": REAL, "fake": FAKE}
_TEST_FOLDERS = ("", "videos", "test_videos")
# with fewer parts, the originals of each are split
_FEWEST_PARTS = 5
_MISSING = "named in {}, not on disk"


def missing(tree: Tree) -> str:
    """Say what a tree lacks."""
    if _parts(tree) or _label_lists(tree) or _is_preview(tree):
        return ""
    return f"{_METADATA} beside videos (dfdc_train_part_*/), test/{_LABELS}, nor the preview's {_PREVIEW}"


def scan(tree: Tree) -> Listing:
    """Read what the lists name.

    Raises:
        DataError: a list does not have its published form.
    """
    if _is_preview(tree):
        return _preview(tree)
    listing = Listing()
    training = _training(tree, listing)
    listing.found += training
    for path in _label_lists(tree):
        listing.found += _labelled(tree, listing, path)
    return listing


def _parts(tree: Tree) -> list[str]:
    return [
        folder for folder, files in tree.folders.items()
        if _METADATA in files and folder.count("/") <= 1 and tree.files(folder)
    ]  # fmt: skip


def _label_lists(tree: Tree) -> list[str]:
    folders = ("", *tree.spelled("test"))
    return [path for folder in folders if tree.stat(path := join(folder, _LABELS)) is not None]


def _is_preview(tree: Tree) -> bool:
    return tree.stat(_PREVIEW) is not None and any(
        tree.spelled(name) for name in ("method_a", "method_b", "original_videos")
    )


def _entries(tree: Tree, path: str) -> Mapping[str, Mapping[str, Any]]:
    document = read_json(tree, path)
    if not isinstance(document, dict) or not all(isinstance(entry, dict) for entry in document.values()):
        raise DataError(f"expected an object for each video in {path}, got another form; get the list again")
    return document


def _label(entry: Mapping[str, Any], path: str, name: str) -> int:
    """Read "label": "FAKE", or the test set's "is_fake": 1."""
    if entry.get("is_fake") in (0, 1):
        return int(entry["is_fake"])
    label = _KINDS.get(str(entry.get("label")).lower())
    if label is None:
        raise DataError(
            f"expected the label REAL or FAKE in {path}, got {entry.get('label')!r} for {name}; get it again"
        )
    return label


def _training(tree: Tree, listing: Listing) -> list[Found]:
    found: list[Found] = []
    sets: list[tuple[str, str]] = []
    parts = _parts(tree)
    by_part = len(parts) >= _FEWEST_PARTS
    for part in parts:
        path = join(part, _METADATA)
        listing.read.add(path)
        entries = _entries(tree, path)
        for name, entry in entries.items():
            video = join(part, name)
            if tree.stat(video) is None:
                listing.skipped[video] = _MISSING.format(path)
                continue
            label = _label(entry, path, name)
            original = stem(str(entry.get("original") or name))
            split = "test" if entry.get("split") == "test" or "is_fake" in entry else "train"
            # a part of the same name is another one in the test set
            key = f"part-{part}" if by_part and split == "train" else original
            sets.append((key, original))
            found.append(Found(video, "dfdc", split, label, _method(label), key, name=stem(name)))
        for video in tree.files(part):
            if base(video) not in entries:
                listing.skipped[video] = f"not named in {path}"
    group_of = connected(sets)
    validating = held_out(group_of[one.group] for one in found if one.split == "train")
    named = [one._replace(group=group_of[one.group]) for one in found]
    return [
        one._replace(split="val") if one.split == "train" and one.group in validating else one
        for one in named
    ]


def _method(label: int) -> str:
    return "real" if label == REAL else "fake"


def _labelled(tree: Tree, listing: Listing, path: str) -> list[Found]:
    """Read the official test labels: filename,label with 1 = fake."""
    listing.read.add(path)
    known = {one.path for one in listing.found}
    found = []
    for line, row in read_csv(tree, path, ("filename", "label")):
        if row["label"] not in ("0", "1"):
            raise DataError(
                f"expected the label 0 or 1 in {path}, got {row['label']!r} (line {line}); get it again"
            )
        places = [join(parent(path), folder, row["filename"]) for folder in _TEST_FOLDERS]
        places += [join("test", folder, row["filename"]) for folder in _TEST_FOLDERS]
        video = next((place for place in places if tree.stat(place) is not None), None)
        if video is None:
            listing.skipped[places[0]] = _MISSING.format(path)
        elif video not in known:
            label, name = int(row["label"]), stem(row["filename"])
            found.append(Found(video, "dfdc", "test", label, _method(label), name, name=name))
    return found


def _preview(tree: Tree) -> Listing:
    listing = Listing(read={_PREVIEW})
    samples = []
    for name, entry in _entries(tree, _PREVIEW).items():
        path = name.replace("\\", "/")
        if tree.stat(path) is None:
            listing.skipped[path] = _MISSING.format(_PREVIEW)
            continue
        label = _label(entry, _PREVIEW, name)
        if entry.get("set") not in ("train", "test"):
            raise DataError(
                f"expected the set train or test in {_PREVIEW}, got {entry.get('set')!r} for {name}"
            )
        method = path.partition("/")[0]
        found = Found(
            path, "dfdcp", entry["set"], label, method, "", name=path.partition("/")[2].rpartition(".")[0]
        )
        samples.append((found, preview_people(path, entry)))
    listing.found, left_out = hold_out_people(samples)
    listing.skipped.update(left_out)
    return listing


def preview_people(path: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the people of a preview video: as the list names them, else the numbers of its folders."""
    named = [str(entry[key]) for key in ("target_id", "swapped_id") if entry.get(key) not in (None, "")]
    numbers = re.findall(r"(?<=/)\d+(?=/)", path)
    return tuple(dict.fromkeys(named or numbers)) or (stem(path).partition("_")[0],)
