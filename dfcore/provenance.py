"""What ran: file digests, package versions, the source's commit."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["digest_json", "sha256_file", "source_commit", "versions"]

_PACKAGES = (
    "rampart",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "av",
    "opencv-python-headless",
    "kfp",
    "kserve",
)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_json(document: object) -> str:
    """Return the SHA-256 of a JSON document in canonical form (sorted keys, no spaces)."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def source_commit() -> str:
    """Return the git commit that this code was checked out from, with "-dirty"; else "unknown"."""
    root = Path(__file__).resolve().parent.parent
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"  # an installed wheel or an image has no checkout
    return described.stdout.strip()


def versions() -> dict[str, str]:
    """Return the versions that results depend on, of what is installed: who trains has no KServe, say."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
