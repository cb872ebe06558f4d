from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

import pytest

from dfcore.data import FAKE, LAYOUTS, REAL, register_layout, scan
from dfcore.errors import ConfigError, DataError

PAIRS = {"train": [["000", "003"], ["001", "002"]], "val": [["004", "005"]], "test": [["006", "007"]]}


def _touch(root: Path, names: Iterable[str]) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def _ffpp(root: Path) -> Path:
    folder = root / "splits"
    folder.mkdir(parents=True)
    for split, pairs in PAIRS.items():
        (folder / f"{split}.json").write_text(json.dumps(pairs))
        for a, b in pairs:
            _touch(root, (f"original_sequences/youtube/c23/videos/{i}.mp4" for i in (a, b)))
            for method in ("Deepfakes", "FaceSwap"):
                base = f"manipulated_sequences/{method}/c23/videos"
                _touch(root, (f"{base}/{a}_{b}.mp4", f"{base}/{b}_{a}.mp4"))
    return root


def test_ffpp_follows_the_official_split(tmp_path: Path) -> None:
    # a root that contains "fake" and "real" says nothing about labels
    manifest = scan(_ffpp(tmp_path / "fake-real"))
    by_id = {sample.sample_id: sample for sample in manifest.samples}
    assert len(by_id) == 4 * 2 + 4 * 2 * 2
    fake = by_id["ffpp/FaceSwap/c23/003_000"]
    assert (fake.label, fake.split, fake.method, fake.compression) == (FAKE, "train", "FaceSwap", "c23")
    real = by_id["ffpp/original/c23/000"]
    assert (real.label, real.split, real.group_id) == (REAL, "train", fake.group_id)
    assert by_id["ffpp/original/c23/001"].group_id != real.group_id
    assert by_id["ffpp/Deepfakes/c23/006_007"].split == "test"


def test_ffpp_refuses_a_broken_split(tmp_path: Path) -> None:
    root = _ffpp(tmp_path / "a")
    (root / "splits" / "val.json").write_text(json.dumps([["000", "005"]]))
    with pytest.raises(DataError, match="id 000"):
        scan(root)
    (root / "splits" / "val.json").write_text("{}{")
    with pytest.raises(DataError, match="id pairs"):
        scan(root)
    (root / "splits" / "val.json").write_text("[]")
    _touch(root, ["original_sequences/youtube/c23/videos/999.mp4"])
    with pytest.raises(DataError, match="official split"):
        scan(root)
    (root / "splits" / "val.json").unlink()
    with pytest.raises(DataError, match=r"official val\.json"):
        scan(root)


CELEB_TRAIN = ("Celeb-real/id0_0001.mp4", "YouTube-real/00001.mp4", "Celeb-synthesis/id0_id1_0001.mp4")
CELEB_TEST = ("Celeb-real/id1_0000.mp4", "YouTube-real/00002.mp4", "Celeb-synthesis/id1_id0_0000.mp4")


def _celeb(root: Path, level: str = "") -> Path:
    _touch(root, (name.replace("/", f"/{level}") for name in (*CELEB_TRAIN, *CELEB_TEST)))
    lines = [f"{0 if 'synthesis' in name else 1} {name}" for name in CELEB_TEST]
    (root / "List_of_testing_videos.txt").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("level", ["", "videos/"])
def test_celebdf_reads_its_list_in_which_one_is_real(
    tmp_path: Path, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        manifest = scan(_celeb(tmp_path, level))
    found = {(s.method, s.path.rpartition("/")[2]): (s.label, s.split) for s in manifest.samples}
    assert found == {
        ("celeb-real", "id0_0001.mp4"): (REAL, "train"),
        ("youtube-real", "00001.mp4"): (REAL, "train"),
        ("celeb-synthesis", "id0_id1_0001.mp4"): (FAKE, "train"),
        ("celeb-real", "id1_0000.mp4"): (REAL, "test"),
        ("youtube-real", "00002.mp4"): (REAL, "test"),
        ("celeb-synthesis", "id1_id0_0000.mp4"): (FAKE, "test"),
    }
    assert "celebdf:id0" in caplog.text  # the official split shares identities


def test_celebdf_refuses_an_incomplete_or_wrong_list(tmp_path: Path) -> None:
    root = _celeb(tmp_path)
    (root / CELEB_TEST[0]).unlink()
    with pytest.raises(DataError, match=r"1 missing \(celeb-real/id1_0000\.mp4\)"):
        scan(root)
    (root / "List_of_testing_videos.txt").write_text("0 Celeb-real/id1_0000.mp4")
    with pytest.raises(DataError, match="line 1"):
        scan(root)
    (root / "List_of_testing_videos.txt").unlink()
    with pytest.raises(DataError, match="List_of_testing_videos"):
        scan(root, "celebdf")


def test_a_folder_without_splits_is_split_by_group(tmp_path: Path) -> None:
    names = [f"{kind}/p{i}__{j}.png" for kind in ("real", "fake/swap") for i in range(40) for j in "ab"]
    _touch(tmp_path, names)
    manifest = scan(tmp_path)
    assert len(manifest.samples) == 160
    assert {s.label: s.method for s in manifest.samples} == {REAL: "real", FAKE: "swap"}
    counts = [sum(s.split == name for s in manifest.samples) for name in ("train", "val", "test")]
    assert counts[0] > max(counts[1:]) > 0 < min(counts[1:])


def test_a_folder_with_splits_keeps_them_and_refuses_a_crossing_group(tmp_path: Path) -> None:
    _touch(tmp_path, ["train/real/a__1.mp4", "test/fake/b__1.mp4"])
    assert {s.split: s.label for s in scan(tmp_path).samples} == {"train": REAL, "test": FAKE}
    _touch(tmp_path, ["test/real/a__2.mp4"])
    with pytest.raises(DataError, match="folder:a"):
        scan(tmp_path)


def test_what_is_not_recognised_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="recognised none"):
        scan(tmp_path)
    with pytest.raises(DataError, match="which is none"):
        scan(tmp_path / "missing")
    with pytest.raises(ConfigError, match="did you mean 'celebdf'"):
        scan(tmp_path, "celebd")
    with pytest.raises(ConfigError, match="taken"):
        register_layout("ffpp", LAYOUTS["ffpp"])
