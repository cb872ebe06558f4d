"""What a layout finds in a tree, and what several layouts need to say it: groups, held-out people, lists."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from dfcore.data.layouts.tree import Tree
from dfcore.errors import DataError

__all__ = ["Found", "Listing", "connected", "held_out", "in_order", "numbers_in", "read_csv", "read_json"]

# of the training people, where a data set has no validation split
_VAL_SHARE = 0.1


class Found(NamedTuple):
    """A sample before its file is read; the fields are those of `Sample`, `name` ends its id."""

    path: str
    dataset: str
    split: str
    label: int
    method: str
    group: str
    compression: str = "original"
    name: str = ""
    kind: Literal["video", "image", "frames"] = "video"
    frames: tuple[str, ...] = ()
    mask: str = ""
    cropped: bool = False
    sha256: str = ""

    @property
    def sample_id(self) -> str:
        """The sample's id."""
        return f"{self.dataset}/{self.method}/{self.compression}/{self.name}"


@dataclass
class Listing:
    """A layout's answer.

    Attributes:
        found: the samples.
        read: files and folders that belong to the samples or to the lists; they are no samples themselves.
        skipped: path -> why it is no sample.
        overlap_allowed: data sets whose official test split shares identities with the rest.
    """

    found: list[Found] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)
    overlap_allowed: tuple[str, ...] = ()


def connected(sets: Iterable[Iterable[str]]) -> dict[str, str]:
    """Map each name to its connected component, named by the smallest name in it.

    >>> connected([("b", "a"), ("c",), ("b", "d")])
    {'b': 'a', 'a': 'a', 'c': 'c', 'd': 'a'}
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        above.setdefault(name, name)
        while above[name] != name:
            above[name] = above[above[name]]
            name = above[name]
        return name

    for names in sets:
        first, *others = names
        root = top(first)
        for other in others:
            root, joined = sorted((root, top(other)))
            above[joined] = root
    return {name: top(name) for name in list(above)}


def held_out(groups: Iterable[str], share: float = _VAL_SHARE) -> set[str]:
    """Choose which groups validate: a share of them, none of fewer than two; the same for the same names."""
    ranked = sorted(set(groups), key=lambda name: hashlib.sha256(name.encode()).digest())
    return set(ranked[: math.ceil(share * len(ranked))]) if len(ranked) > 1 else set()


def numbers_in(name: str) -> int:
    """Return the number that a still's name is sorted by; -1 if it has none.

    >>> numbers_in("a/frame_0012.png")
    12
    """
    digits = ""
    for letter in reversed(name.rpartition("/")[2].rpartition(".")[0]):
        if not letter.isdigit():
            break
        digits = letter + digits
    return int(digits) if digits else -1


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort stills as they are displayed: by number, so that 10 comes after 9."""
    return tuple(sorted(names, key=lambda name: (numbers_in(name), name)))


def read_json(tree: Tree, path: str) -> Any:
    """Read a JSON list of the data set.

    Raises:
        DataError: it is none.
    """
    try:
        return json.loads(tree.text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected JSON in {path} of {tree.root}, got: {error}; get it again") from error


def read_csv(tree: Tree, path: str, columns: tuple[str, ...]) -> list[tuple[int, Mapping[str, str]]]:
    """Read (line number, row) of a CSV list with a heading line.

    Raises:
        DataError: a column is missing, or a line has none of its values.
    """
    reader = csv.DictReader(io.StringIO(tree.text(path)), skipinitialspace=True)
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(
            f"expected the columns {', '.join(columns)} in {path}, got {reader.fieldnames}; get it again"
        )
    rows: list[tuple[int, Mapping[str, str]]] = []
    for row in reader:
        if any(not row[name] for name in columns):
            raise DataError(
                f"expected {', '.join(columns)} in {path}, got none (line {reader.line_num}); get it again"
            )
        rows.append((reader.line_num, {name: row[name].strip() for name in columns}))
    return rows
