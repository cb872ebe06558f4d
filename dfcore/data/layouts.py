"""Read data sets as they lie on disk: one function for each layout, found by name or recognised.

Source: ondyari/FaceForensics (dataset/README.md, splits); yuezunli/celeb-deepfakeforensics (README, list).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from dfcore.config import suggest
from dfcore.data.manifest import FAKE, REAL, SPLITS, Manifest, Sample
from dfcore.errors import ConfigError, DataError

__all__ = ["LAYOUTS", "Layout", "register_layout", "scan"]

_VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})
_IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
_FFPP_METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
_FFPP_COMPRESSIONS = {"raw": "raw", "c0": "raw", "c23": "c23", "c40": "c40"}
_CELEB_FOLDERS = {"celeb-real": REAL, "youtube-real": REAL, "celeb-synthesis": FAKE}
_CELEB_LIST = "List_of_testing_videos.txt"
# of a folder without splits: 70 / 15 / 15 by the digest of the group
_VAL_FROM, _TEST_FROM = 0.70, 0.85


class Layout(NamedTuple):
    """`matches` recognises a root folder; `scan` reads it."""

    matches: Callable[[Path], bool]
    scan: Callable[[Path], Manifest]


LAYOUTS: dict[str, Layout] = {}


def register_layout(name: str, layout: Layout) -> None:
    """Add a layout; earlier ones are asked first.

    Raises:
        ConfigError: the name is taken.
    """
    if name in LAYOUTS:
        raise ConfigError(f"expected a new layout name, got {name!r}, which is taken")
    LAYOUTS[name] = layout


def scan(root: Path, layout: str = "auto") -> Manifest:
    """List a data set's samples.

    Args:
        root: the data set's folder.
        layout: a name of `LAYOUTS`, or "auto" to recognise it.

    Returns:
        The validated manifest.

    Raises:
        ConfigError: unknown layout.
        DataError: no such folder, no layout recognised, or files that do not fit it.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"expected a data set's folder, got {root}, which is none")
    if layout != "auto":
        if layout not in LAYOUTS:
            raise ConfigError(f"unknown layout {layout!r}{suggest(layout, LAYOUTS)}")
        return LAYOUTS[layout].scan(root)
    for candidate in LAYOUTS.values():
        if candidate.matches(root):
            return candidate.scan(root)
    raise DataError(
        f"expected one of the layouts {', '.join(sorted(LAYOUTS))} in {root}, recognised none; "
        "name the layout, or use real/ and fake/ folders"
    )


def _files(folder: Path, suffixes: frozenset[str] = _VIDEOS) -> list[Path]:
    """List media files of a folder, with or without a `videos` level."""
    inner = folder / "videos"
    folder = inner if inner.is_dir() else folder
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)


def _components(pairs: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """Map each id to its connected component, named by the smallest id in it."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for first, *others in pairs:
        root = find(first)
        for other in others:
            root, joined = sorted((root, find(other)))
            parent[joined] = root
    return {name: find(name) for name in list(parent)}


def _ffpp_matches(root: Path) -> bool:
    return (root / "original_sequences").is_dir() and (root / "manipulated_sequences").is_dir()


def _ffpp_splits(root: Path) -> tuple[dict[str, str], list[tuple[str, ...]]]:
    """Read the official split: id -> split, and the pairs."""
    split_of: dict[str, str] = {}
    pairs: list[tuple[str, ...]] = []
    for split in SPLITS:
        path = next(
            (p for p in (root / f"{split}.json", root / "splits" / f"{split}.json") if p.is_file()), None
        )
        if path is None:
            raise DataError(
                f"expected the official {split}.json in {root} or {root / 'splits'}, got none; copy it there"
            )
        try:
            listed = [
                (str(first), str(second)) for first, second in json.loads(path.read_text(encoding="utf-8"))
            ]
        except (ValueError, TypeError) as error:
            raise DataError(f"expected a list of id pairs in {path}, got: {error}") from error
        for pair in listed:
            for name in pair:
                if split_of.setdefault(name, split) != split:
                    raise DataError(f"expected id {name} in one split, got {split_of[name]} and {split}")
        pairs.extend(listed)
    return split_of, pairs


def _scan_ffpp(root: Path) -> Manifest:
    split_of, pairs = _ffpp_splits(root)
    group_of = _components(pairs)
    sources = [(root / "original_sequences" / "youtube", "original", REAL)]
    sources += [(root / "manipulated_sequences" / method, method, FAKE) for method in _FFPP_METHODS]
    samples = []
    for base, method, label in sources:
        for folder, compression in _FFPP_COMPRESSIONS.items():
            for path in _files(base / folder):
                target = path.stem.partition("_")[0]
                if target not in split_of:
                    raise DataError(
                        f"expected the id of {path} in the official split, got none; remove the file"
                    )
                samples.append(
                    Sample.of(
                        root, path, dataset="ffpp", split=split_of[target], label=label, method=method,
                        compression=compression, group_id=f"ffpp:{group_of[target]}",
                    )
                )  # fmt: skip
    return Manifest(samples, root)


def _celeb_folders(root: Path) -> dict[str, Path]:
    return {path.name.lower(): path for path in root.iterdir() if path.name.lower() in _CELEB_FOLDERS}


def _celeb_matches(root: Path) -> bool:
    return (root / _CELEB_LIST).is_file() and bool(_celeb_folders(root))


def _celeb_tests(root: Path) -> set[str]:
    """Read the official test list, in which 1 means real; keys are "folder/file" in lower case."""
    listed: set[str] = set()
    path = root / _CELEB_LIST
    if not path.is_file():
        raise DataError(f"expected {_CELEB_LIST} in {root}, got none; it comes with the data set")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        flag, _, name = line.strip().partition(" ")
        folder, _, file = name.strip().replace("\\", "/").partition("/")
        label = _CELEB_FOLDERS.get(folder.lower())
        if label is None or flag != str(int(label == REAL)):
            raise DataError(
                f"expected '1 real-folder/file' or '0 Celeb-synthesis/file', got {line!r} (line {number})"
            )
        listed.add(f"{folder}/{Path(file).name}".lower())
    return listed


def _celeb_identities(folder: str, stem: str) -> tuple[str, ...]:
    return tuple(re.findall(r"id\d+", stem)) or (f"{folder}-{stem}",)


def _scan_celebdf(root: Path) -> Manifest:
    tests, found = _celeb_tests(root), []
    for name, folder in sorted(_celeb_folders(root).items()):
        found += [(name, path) for path in _files(folder)]
    missing = tests - {f"{name}/{path.name}".lower() for name, path in found}
    if missing:
        raise DataError(
            f"expected the {len(tests)} listed test videos in {root}, got {len(missing)} missing "
            f"({min(missing)}); complete the data set"
        )
    group_of = _components(_celeb_identities(name, path.stem) for name, path in found)
    samples = [
        Sample.of(
            root, path, dataset="celebdf", label=_CELEB_FOLDERS[name], method=name, compression="original",
            split="test" if f"{name}/{path.name}".lower() in tests else "train",
            group_id=f"celebdf:{group_of[_celeb_identities(name, path.stem)[0]]}",
        )
        for name, path in found
    ]  # fmt: skip
    return Manifest(samples, root, overlap_allowed=["celebdf"])


def _folder_matches(root: Path) -> bool:
    has_splits = any((root / split / kind).is_dir() for split in SPLITS for kind in ("real", "fake"))
    return has_splits or ((root / "real").is_dir() and (root / "fake").is_dir())


def _folder_files(root: Path) -> Iterator[tuple[str | None, int, Path, Path]]:
    """Yield (split or None, label, the label's folder, file); labels come from the folder's name alone."""
    bases: list[tuple[str | None, Path]] = [
        (split, root / split) for split in SPLITS if (root / split).is_dir()
    ]
    for split, base in bases or [(None, root)]:
        for folder, label in (("real", REAL), ("fake", FAKE)):
            for path in sorted((base / folder).rglob("*")):
                if path.suffix.lower() in _VIDEOS | _IMAGES:
                    yield split, label, base / folder, path


def _scan_folder(root: Path) -> Manifest:
    """Read [train|val|test/]{real,fake}/[method/]file; the group is the file's name up to "__"."""
    samples = []
    for given, label, folder, path in _folder_files(root):
        inside = path.relative_to(folder)
        group = f"folder:{path.stem.partition('__')[0]}"
        split = given or _split_of(group)
        method = inside.parts[0] if len(inside.parts) > 1 else folder.name
        # the file's type stays in the name: a.mp4 and a.png are two samples
        stem = f"{split}/{inside.as_posix()}"
        samples.append(
            Sample.of(
                root, path, dataset="folder", split=split, label=label, method=method,
                compression="original", group_id=group, stem=stem,
            )
        )  # fmt: skip
    return Manifest(samples, root)


def _split_of(group: str) -> str:
    share = int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) / 16**8
    return "train" if share < _VAL_FROM else "val" if share < _TEST_FROM else "test"


register_layout("ffpp", Layout(_ffpp_matches, _scan_ffpp))
register_layout("celebdf", Layout(_celeb_matches, _scan_celebdf))
register_layout("folder", Layout(_folder_matches, _scan_folder))
