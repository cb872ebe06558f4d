"""The layouts by name, and the scan that recognises one and reads it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dfcore.config import suggest
from dfcore.data.layouts.listing import Listing
from dfcore.data.layouts.samples import leftovers, to_samples
from dfcore.data.layouts.tree import Tree
from dfcore.data.manifest import Manifest
from dfcore.errors import ConfigError, DataError

__all__ = ["LAYOUTS", "Layout", "register_layout", "scan"]

logger = logging.getLogger(__name__)


class Layout(NamedTuple):
    """`missing` says what a tree lacks to be of this layout ("" for nothing); `scan` reads one that is."""

    missing: Callable[[Tree], str]
    scan: Callable[[Tree], Listing]


LAYOUTS: dict[str, Layout] = {}


def register_layout(name: str, layout: Layout) -> None:
    """Add a layout; earlier ones are asked first.

    Raises:
        ConfigError: the name is taken.
    """
    if name in LAYOUTS:
        raise ConfigError(f"expected a new layout name, got {name!r}, which is taken; choose another")
    LAYOUTS[name] = layout


def scan(
    root: Path,
    layout: str = "auto",
    *,
    known: Manifest | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """List a data set's samples.

    Args:
        root: the data set's folder.
        layout: a name of `LAYOUTS`, or "auto" to recognise it.
        known: the manifest of an earlier scan of this root; files of unchanged path, size and time are not
            read again.
        progress: called with (files read, files to read).

    Returns:
        The validated manifest; its `skipped` names every file below the root that is no sample.

    Raises:
        ConfigError: unknown layout.
        DataError: no such folder, no layout recognised, files or lists that do not fit it, an identity or the
            same file in two splits, or the same file with two labels.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise ConfigError(
            f"expected auto or one of {', '.join(LAYOUTS)}, got layout {layout!r}{suggest(layout, LAYOUTS)}"
        )
    tree = Tree(Path(root), known=known, progress=progress)
    if not tree.num_files:
        raise DataError(f"expected a data set in {root}, got a folder without files; check the path")
    name = layout if layout != "auto" else _recognised(tree)
    missing = LAYOUTS[name].missing(tree)
    if missing:
        raise DataError(
            f"expected the layout {name} in {root}, got no {missing}; check the path or the layout"
        )
    listing = LAYOUTS[name].scan(tree)
    samples, twice = to_samples(tree, listing)
    skipped = [*leftovers(tree, listing, name), *twice]
    logger.info("%s: layout %s, %d samples, %d entries skipped", root, name, len(samples), len(skipped))
    return Manifest(samples, tree.root, overlap_allowed=listing.overlap_allowed, skipped=skipped)


def _recognised(tree: Tree) -> str:
    tried = []
    for name, layout in LAYOUTS.items():
        missing = layout.missing(tree)
        if not missing:
            return name
        tried.append(f"\n  {name}: no {missing}")
    raise DataError(
        f"expected one of the known layouts in {tree.root}, recognised none; name the layout, or use real/ "
        f"and fake/ folders. Tried:{''.join(tried)}"
    )
