"""Small data sets on disk, in the layouts of the real ones; a file's content is its name."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dfcore.data import Manifest, Sample

FFPP_PAIRS = {"train": [["000", "003"], ["001", "002"]], "val": [["004", "005"]], "test": [["006", "007"]]}


def touch(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def ffpp_splits(folder: Path) -> None:
    for split, pairs in FFPP_PAIRS.items():
        write_json(folder / f"{split}.json", pairs)


def ffpp(
    root: Path,
    quality: str = "c23",
    methods: Iterable[str] = ("Deepfakes", "FaceSwap"),
    splits: str = "splits",
) -> Path:
    ffpp_splits(root / splits)
    for a, b in (pair for pairs in FFPP_PAIRS.values() for pair in pairs):
        touch(root, (f"original_sequences/youtube/{quality}/videos/{i}.mp4" for i in (a, b)))
        for method in methods:
            base = f"manipulated_sequences/{method}/{quality}/videos"
            touch(root, (f"{base}/{a}_{b}.mp4", f"{base}/{b}_{a}.mp4"))
    return root


CELEB_TRAIN = ("Celeb-real/id0_0001.mp4", "YouTube-real/00001.mp4", "Celeb-synthesis/id0_id1_0001.mp4")
CELEB_TEST = ("Celeb-real/id1_0000.mp4", "YouTube-real/00002.mp4", "Celeb-synthesis/id1_id0_0000.mp4")


def celeb_list(root: Path, names: Iterable[str]) -> None:
    lines = [f"{0 if 'synthesis' in name else 1} {name}" for name in names]
    root.mkdir(parents=True, exist_ok=True)
    # as published: no newline at the end
    (root / "List_of_testing_videos.txt").write_text("\n".join(lines))


def celeb(root: Path, level: str = "") -> Path:
    touch(root, (name.replace("/", f"/{level}") for name in (*CELEB_TRAIN, *CELEB_TEST)))
    celeb_list(root, CELEB_TEST)
    return root


def archive(path: Path, contents: Mapping[str, bytes]) -> Path:
    """Write a .tar, .tar.gz or .zip in the order of the mapping."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name, data in contents.items():
                packed.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if path.suffix in {".gz", ".tgz"} else "w") as tar:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def sequences(
    number: int, kind: str, ids: Iterable[int], stills: int = 3, mark: str = ""
) -> dict[str, bytes]:
    """WildDeepfake's members: ./<n>/{real|fake}/<sequence>/<frame>.png, in no useful order."""
    names = [
        f"./{number}/{kind}/{one}/{still}.png" for one in ids for still in reversed(range(8, 8 + stills))
    ]
    return {name: f"{mark}{name}".encode() for name in names}


def by_id(manifest: Manifest) -> dict[str, Sample]:
    return {sample.sample_id: sample for sample in manifest.samples}


def reasons(manifest: Manifest) -> dict[str, str]:
    return dict(manifest.skipped)
