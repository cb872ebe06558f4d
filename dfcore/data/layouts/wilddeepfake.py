"""WildDeepfake: face crops in archives, `{real,fake}_{train,test}/<n>.tar.gz`, read without unpacking.

The label and the split come from that folder's name alone. An archive holds the sequences of one source
video; sequence ids repeat across archives.

Source: OpenTAI/wild-deepfake, README.
"""

from __future__ import annotations

from collections.abc import Iterator

from dfcore.data.layouts.listing import Found, Listing, held_out
from dfcore.data.layouts.stills import Archive, read_archives, stills_in, without_suffix
from dfcore.data.layouts.tree import ARCHIVES, Tree, base, join, normal, parent
from dfcore.data.manifest import FAKE, REAL

__all__ = ["missing", "scan"]

_FOLDERS = {
    "real_train": (REAL, "train"), "real_test": (REAL, "test"),
    "fake_train": (FAKE, "train"), "fake_test": (FAKE, "test"),
}  # fmt: skip
_KINDS = {"real": REAL, "fake": FAKE}
_TOP = "deepfake_in_the_wild"


def missing(tree: Tree) -> str:
    """Say what a tree lacks."""
    if any(True for _ in _folders(tree)):
        return ""
    return "real_train/, real_test/, fake_train/ or fake_test/ with <n>.tar.gz in them"


def scan(tree: Tree) -> Listing:
    """Read the archives (or folders where they were unpacked); a tenth of the training ones validates."""
    listing = Listing()
    archives = read_archives(tree, [path for folder, _ in _folders(tree) for path in _archives(tree, folder)])
    for folder, name in _folders(tree):
        for path in _archives(tree, folder):
            listing.found.extend(_from_archive(listing, path, name, archives[path]))
        listing.found.extend(_unpacked(tree, listing, folder, name))
    for label in (REAL, FAKE):
        training = [found for found in listing.found if (found.label, found.split) == (label, "train")]
        validating = held_out(found.group for found in training)
        listing.found = [
            found._replace(split="val") if found.group in validating else found for found in listing.found
        ]
    return listing


def _folders(tree: Tree) -> Iterator[tuple[str, str]]:
    """Yield (folder, its name as published)."""
    for name in _FOLDERS:
        for top in ("", _TOP):
            for folder in tree.spelled(join(top, name)):
                yield folder, name


def _archives(tree: Tree, folder: str) -> list[str]:
    return [join(folder, name) for name in sorted(tree.folders[folder]) if name.lower().endswith(ARCHIVES)]


def _from_archive(listing: Listing, path: str, name: str, archive: Archive) -> Iterator[Found]:
    listing.skipped.update(dict(archive.skipped))
    if archive.error or not archive.sequences:
        listing.skipped[path] = archive.error or "an archive without images"
        return
    listing.read.add(path)
    for sequence in archive.sequences:
        reason = _contradiction(sequence.folder, name)
        if reason:
            listing.skipped[join(path, sequence.folder)] = reason
        else:
            found = _found(path, name, without_suffix(path, ARCHIVES), base(sequence.folder))
            yield found._replace(frames=sequence.frames, sha256=sequence.sha256)


def _unpacked(tree: Tree, listing: Listing, folder: str, name: str) -> Iterator[Found]:
    packed = {without_suffix(path, ARCHIVES) for path in _archives(tree, folder)}
    for number in tree.children.get(folder, ()):
        top = join(folder, number)
        if number in packed:
            listing.skipped[f"{top}/"] = f"unpacked from the archive {number}, which is there too"
            continue
        for place in tree.below(top):
            stills = stills_in(tree, place)
            reason = _contradiction(place[len(top) + 1 :], name)
            if stills and reason:
                listing.skipped[f"{place}/"] = reason
            elif stills:
                yield _found(place, name, number, base(place))._replace(frames=stills)


def _contradiction(inside: str, name: str) -> str:
    kind = normal(base(parent(inside)))
    if kind in _KINDS and _KINDS[kind] != _FOLDERS[name][0]:
        return f"it lies in {kind}/ inside {name}/; its label is unknown"
    return ""


def _found(path: str, name: str, number: str, sequence: str) -> Found:
    label, split = _FOLDERS[name]
    return Found(
        path, "wilddeepfake", split, label, "real" if label == REAL else "wild", f"{name}/{number}",
        name=f"{name}/{number}/{sequence}", kind="frames", cropped=True,
    )  # fmt: skip
