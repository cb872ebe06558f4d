"""What has been computed, kept batch by batch: a run that was killed goes on, a repeated one does no work.

CACHE/KEY/0000.safetensors   arrays of one batch; KEY is the SHA-256 of everything that they depend on,
                             the source of the code included
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

import dfcore
from dfcore.provenance import digest_json, versions
from dfcore.storage import write_atomic

__all__ = ["Cache", "Record", "code_digest"]

logger = logging.getLogger(__name__)

_PACKAGES = ("attacks", "data", "evaluation", "explain", "models", "preprocessing")

Arrays = dict[str, NDArray[Any]]


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return the SHA-256 over the source that attacks and measures, and the versions it runs with."""
    root = Path(dfcore.__path__[0])
    files = sorted(path for name in _PACKAGES for path in (root / name).rglob("*.py"))
    sources = {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return digest_json({"sources": sources, "versions": versions()})


class Record:
    """The batches of one piece of work.

    Args:
        folder: where they lie; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, number: int) -> Arrays | None:
        """Return a batch's arrays, or None where it has yet to be computed."""
        if self._folder is None:
            return None
        path = self._path(number)
        try:
            return load(path.read_bytes())
        except FileNotFoundError:
            return None
        except SafetensorError:
            logger.warning("computing %s again: it is not readable", path)
            return None

    def put(self, number: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep a batch; the file is whole or absent."""
        if self._folder is not None:
            whole = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
            write_atomic(self._path(number), save(whole))

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{number:04d}.safetensors"


class Cache:
    """Records by what they depend on.

    Args:
        folder: of the cache; None keeps nothing.
        shared: plain data that all of them depend on.
    """

    def __init__(self, folder: Path | None, shared: Mapping[str, Any]) -> None:
        self.folder = folder
        self._shared = {**shared, "code": code_digest()}

    def record(self, **depends_on: Any) -> Record:
        """Return the record of work that depends on this plain data."""
        return Record(self.path(**depends_on))

    def path(self, **depends_on: Any) -> Path | None:
        """Return the folder of such work, or None where nothing is kept."""
        return None if self.folder is None else self.folder / digest_json({**self._shared, **depends_on})
