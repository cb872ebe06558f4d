"""Reuse of a step's output while nothing that it depends on has changed.

KFP's own cache ignores what an artifact contains, so it stays off. Here the key is the content: digests of
the inputs, the settings, and the source of the packages that do the work. The cache holds
`<cache>/<step>/<key>/`; an output folder shares its files by hard link where the file system can.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["code_digest", "folder_digest", "link_tree", "reuse"]


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 over names and contents of all files below a folder."""
    from dfcore.provenance import digest_json, sha256_file

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest_json({str(path.relative_to(folder)): sha256_file(path) for path in files})


def code_digest(packages: tuple[str, ...]) -> str:
    """Return the SHA-256 over the source of packages of `dfcore` and the versions they run with.

    Args:
        packages: names inside `dfcore`, e.g. ("training", "models").
    """
    import dfcore
    from dfcore.provenance import digest_json, versions

    root = Path(dfcore.__path__[0])
    files = sorted(
        path for name in packages for path in ((root / f"{name}.py"), *(root / name).rglob("*.py"))
        if path.is_file()
    )  # fmt: skip
    sources = {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return digest_json({"sources": sources, "versions": versions()})


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder by hard links, or by bytes across file systems; the target is whole or absent."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(source, partial, copy_function=_link)
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()  # KFP makes the folder of an output before the step runs
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def reuse(
    step: str,
    inputs: Mapping[str, Any],
    *,
    cache: str | None,
    out: Path,
    work: Callable[[Path], object],
    resumable: bool = False,
) -> bool:
    """Fill `out` from the cache, or do the work and keep its output.

    Args:
        step: the folder in the cache, e.g. "train".
        inputs: plain data that fixes the output (digests, settings).
        cache: the cache folder; None does the work without one.
        out: the output folder.
        work: writes a complete output into the folder it is given.
        resumable: `work` goes on from what an interrupted run left in that folder.

    Returns:
        Whether the output was reused.
    """
    from dfcore.provenance import digest_json

    if cache is None:
        work(out)
        return False
    kept = Path(cache) / step / digest_json(dict(inputs))
    kept.parent.mkdir(parents=True, exist_ok=True)
    with _locked(kept.with_name(f"{kept.name}.lock")):
        reused = kept.is_dir()
        if not reused:
            partial = kept.with_name(f".{kept.name}.partial")
            if not resumable:
                shutil.rmtree(partial, ignore_errors=True)
            work(partial)
            partial.replace(kept)
    link_tree(kept, out)
    return reused


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)  # another file system, or one without hard links
    return target
