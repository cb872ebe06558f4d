"""One walk over a data set's folder; the layouts then work on what it found, without touching the disk."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from dfcore.data.manifest import Manifest, Sample
from dfcore.errors import DataError

__all__ = ["ARCHIVES", "IMAGES", "VIDEOS", "FileStat", "Tree", "base", "join", "normal", "parent", "stem"]

VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})
IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")


class FileStat(NamedTuple):
    """Bytes, and nanoseconds of the last change."""

    size: int
    mtime_ns: int


def join(*parts: str) -> str:
    """Join folders with "/", leaving out empty ones and the "./" of an archive's members."""
    return "/".join(part.removeprefix("./") for part in parts if part)


def parent(path: str) -> str:
    """Return the folder of a path; "" is the root."""
    return path.rpartition("/")[0]


def base(path: str) -> str:
    """Return the last part of a path."""
    return path.rpartition("/")[2]


def stem(path: str) -> str:
    """Return the last part of a path without its suffix."""
    name = base(path)
    return name.rpartition(".")[0] or name


def suffix(path: str) -> str:
    """Return the suffix in lower case, with its dot; "" if there is none."""
    head, dot, tail = base(path).rpartition(".")
    return f".{tail.lower()}" if dot and head else ""


def normal(name: str) -> str:
    """Spell a folder's name as all copies of a data set do: `Real Train`, `real-train` -> `real_train`."""
    return name.casefold().replace(" ", "_").replace("-", "_")


class Tree:
    """The files below a folder.

    Links are followed, but none into a folder above it, and what lies behind a link is read once only; so a
    loop ends.

    Args:
        root: the data set's folder.
        known: the manifest of an earlier scan of this root.
        progress: called with (files read, files to read) where a layout has to read archives.

    Raises:
        DataError: it is no folder, or its path is not UTF-8.
    """

    def __init__(
        self,
        root: Path,
        *,
        known: Manifest | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if not root.is_dir():
            raise DataError(f"expected a data set's folder, got {root}, which is none; check the path")
        if _shown(str(root)) != str(root):
            raise DataError(
                f"expected a folder whose path is UTF-8, got {_shown(str(root))}; rename or link it"
            )
        self.root = root
        self.known: dict[str, list[Sample]] = defaultdict(list)
        for sample in known.samples if known else ():
            self.known[sample.path].append(sample)
        self.known_skipped = known.skipped if known else ()
        self.progress = progress
        self.folders: dict[str, dict[str, FileStat]] = {}
        self.children: dict[str, list[str]] = defaultdict(list)
        self.skipped: dict[str, str] = {}
        self._spelled: dict[str, list[str]] = defaultdict(list)
        self._seen_linked: set[tuple[int, int]] = set()
        self._walk()

    @property
    def num_files(self) -> int:
        """How many files there are."""
        return sum(map(len, self.folders.values()))

    def stat(self, path: str) -> FileStat | None:
        """Return a file's size and time; None if it is not there."""
        return self.folders.get(parent(path), {}).get(base(path))

    def spelled(self, path: str) -> list[str]:
        """Return the folders with this path in any spelling (case, spaces, hyphens), sorted."""
        return self._spelled.get(normal(path), [])

    def files(self, folder: str, suffixes: Iterable[str] = VIDEOS) -> list[str]:
        """Return paths of a folder's files with these suffixes, sorted by name."""
        wanted, above = frozenset(suffixes), f"{folder}/" if folder else ""
        return [f"{above}{name}" for name in sorted(self.folders.get(folder, ())) if suffix(name) in wanted]

    def below(self, folder: str) -> Iterator[str]:
        """Yield the folder itself and every folder below it."""
        if folder in self.folders:
            yield folder
            for name in self.children[folder]:
                yield from self.below(join(folder, name))

    def text(self, path: str) -> str:
        """Read a list of the data set.

        Raises:
            DataError: unreadable, or not UTF-8.
        """
        try:
            return (self.root / path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"expected a readable UTF-8 file {path} in {self.root}, got: {error}") from error

    def _walk(self) -> None:
        status = self.root.stat()
        pending: list[tuple[str, tuple[tuple[int, int], ...], bool]] = [
            ("", ((status.st_dev, status.st_ino),), False)
        ]
        while pending:
            folder, above, linked = pending.pop()
            if linked:
                self._seen_linked.add(above[-1])
            try:
                with os.scandir(self.root / folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                self.skipped[f"{folder}/"] = f"unreadable folder: {error.strerror}"
                continue
            self.folders[folder] = {}
            self._spelled[normal(folder)].append(folder)
            for entry in entries:
                inner = self._visit(folder, entry, above, linked)
                if inner is not None:
                    pending.append(inner)
        for names in (*self.children.values(), *self._spelled.values()):
            names.sort()

    def _visit(
        self, folder: str, entry: os.DirEntry[str], above: tuple[tuple[int, int], ...], linked: bool
    ) -> tuple[str, tuple[tuple[int, int], ...], bool] | None:
        """Keep a file; return a folder that is to be walked."""
        path = f"{folder}/{entry.name}" if folder else entry.name
        if _shown(entry.name) != entry.name:
            self.skipped[_shown(path)] = "its name is not UTF-8; rename it"
            return None
        try:
            status = entry.stat()
            if entry.is_file():
                self.folders[folder][entry.name] = FileStat(status.st_size, status.st_mtime_ns)
                return None
        except OSError as error:
            self.skipped[path] = f"unreadable: {error.strerror}"
            return None
        if not entry.is_dir():
            self.skipped[path] = "neither a file nor a folder"
            return None
        real = (status.st_dev, status.st_ino)
        if real in above or (linked and real in self._seen_linked):
            self.skipped[f"{path}/"] = "a link into a folder that is read already"
            return None
        self.children[folder].append(entry.name)
        return path, (*above, real), linked or entry.is_symlink()


def _shown(name: str) -> str:
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
