from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dfcore.data import FAKE, REAL, published_counts, scan
from dfcore.errors import DataError
from tests.data.trees import by_id, reasons, touch, write_json


def _part(folder: Path, originals: int, mark: str = "") -> None:
    """Each original with two fakes; one original with "original": null, as some parts have it."""
    entries: dict[str, Any] = {}
    for number in range(originals):
        real = f"{mark}r{number}.mp4"
        entries[real] = {"label": "REAL", "split": "train"} | ({} if number else {"original": None})
        for take in "ab":
            entries[f"{mark}f{number}{take}.mp4"] = {"label": "FAKE", "split": "train", "original": real}
    touch(folder, entries)
    write_json(folder / "metadata.json", entries)


@pytest.mark.parametrize("level", ["", "train/"])
def test_one_part_is_split_by_original(tmp_path: Path, level: str) -> None:
    _part(tmp_path / f"{level}dfdc_train_part_0", 20)
    manifest = scan(tmp_path)
    assert len(manifest.samples) == 60
    assert {sample.split for sample in manifest.samples} == {"train", "val"}
    samples = by_id(manifest)
    for number in range(20):
        real = samples[f"dfdc/real/original/r{number}"]
        for take in "ab":
            fake = samples[f"dfdc/fake/original/f{number}{take}"]
            assert (real.label, fake.label) == (REAL, FAKE)
            assert (
                (fake.split, fake.group_id) == (real.split, real.group_id) == (real.split, f"dfdc:r{number}")
            )
    counts = {count.what: count.found for count in published_counts(manifest)}
    assert counts == {"training real": 20, "training fake": 40, "test real": 0, "test fake": 0}


def test_several_parts_are_split_by_part(tmp_path: Path) -> None:
    for part in range(12):
        _part(tmp_path / f"dfdc_train_part_{part}", 2, f"p{part}-")
    splits: dict[str, set[str]] = {}
    for sample in scan(tmp_path).samples:
        splits.setdefault(sample.path.partition("/")[0], set()).add(sample.split)
    assert all(len(found) == 1 for found in splits.values())
    assert sum(found == {"val"} for found in splits.values()) == 2


def test_the_official_test_labels(tmp_path: Path) -> None:
    touch(tmp_path / "test", ["a.mp4", "b.mp4", "c.mp4"])
    (tmp_path / "test" / "labels.csv").write_text("filename,label\na.mp4,0\nb.mp4,1\ngone.mp4,1\n")
    manifest = scan(tmp_path)
    found = {sample.path: (sample.label, sample.split) for sample in manifest.samples}
    assert found == {"test/a.mp4": (REAL, "test"), "test/b.mp4": (FAKE, "test")}
    assert reasons(manifest) == {
        "test/c.mp4": "not where the layout dfdc has its samples",
        "test/gone.mp4": "named in test/labels.csv, not on disk",
    }


def test_labels_beside_a_videos_folder(tmp_path: Path) -> None:
    touch(tmp_path, ["videos/a.mp4", "videos/b.mp4"])
    (tmp_path / "labels.csv").write_text("filename, label\na.mp4, 0\nb.mp4, 1\n")
    assert [sample.label for sample in scan(tmp_path).samples] == [FAKE, REAL]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,0\n", "columns filename, label"),
        ("filename,label\na.mp4,0\nb.mp4,2\n", r"label 0 or 1 .*'2' \(line 3\)"),
        ("filename,label\na.mp4\n", r"got none \(line 2\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path / "test", ["a.mp4", "b.mp4"])
    (tmp_path / "test" / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        scan(tmp_path)


def test_the_test_sets_own_metadata(tmp_path: Path) -> None:
    touch(tmp_path / "test", ["a.mp4", "b.mp4"])
    write_json(tmp_path / "test" / "metadata.json", {"a.mp4": {"is_fake": 0}, "b.mp4": {"is_fake": 1}})
    (tmp_path / "test" / "labels.csv").write_text("filename,label\na.mp4,0\nb.mp4,1\n")
    assert [(s.label, s.split) for s in scan(tmp_path).samples] == [(FAKE, "test"), (REAL, "test")]


def test_what_metadata_and_disk_do_not_share_is_told(tmp_path: Path) -> None:
    part = tmp_path / "dfdc_train_part_3"
    touch(part, ["a.mp4", "stray.mp4"])
    write_json(part / "metadata.json", {"a.mp4": {"label": "REAL"}, "gone.mp4": {"label": "FAKE"}})
    assert reasons(scan(tmp_path)) == {
        "dfdc_train_part_3/gone.mp4": "named in dfdc_train_part_3/metadata.json, not on disk",
        "dfdc_train_part_3/stray.mp4": "not named in dfdc_train_part_3/metadata.json",
    }


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (["a.mp4"], "an object for each video"),
        ({"a.mp4": "FAKE"}, "an object for each video"),
        ({"a.mp4": {"label": "MAYBE"}}, "label REAL or FAKE .*'MAYBE' for a.mp4"),
    ],
)
def test_metadata_of_another_form_is_refused(tmp_path: Path, document: Any, message: str) -> None:
    touch(tmp_path / "dfdc_train_part_3", ["a.mp4"])
    write_json(tmp_path / "dfdc_train_part_3" / "metadata.json", document)
    with pytest.raises(DataError, match=message):
        scan(tmp_path)


def _preview(root: Path, entries: dict[str, Any]) -> Path:
    touch(root, (name for name in entries if "gone" not in name))
    write_json(root / "dataset.json", entries)
    return root


def test_the_preview(tmp_path: Path) -> None:
    entries: dict[str, Any] = {"original_videos/900/900_A_001.mp4": {"label": "real", "set": "test"}}
    for person in range(20):
        entries[f"original_videos/{person}/{person}_A_001.mp4"] = {"label": "real", "set": "train"}
    entries["method_A/900/901/900_901_B.mp4"] = {
        "label": "fake", "set": "test", "target_id": 900, "swapped_id": "901",
    }  # fmt: skip
    entries["method_B/7/8/7_8_gone.mp4"] = {"label": "fake", "set": "train"}
    manifest = scan(_preview(tmp_path, entries))
    samples = by_id(manifest)
    fake = samples["dfdcp/method_A/original/900/901/900_901_B"]
    assert (fake.label, fake.split, fake.group_id) == (FAKE, "test", "dfdcp:900")
    assert samples["dfdcp/original_videos/original/900/900_A_001"].group_id == fake.group_id
    assert sum(sample.split == "val" for sample in manifest.samples) == 2
    assert reasons(manifest) == {"method_B/7/8/7_8_gone.mp4": "named in dataset.json, not on disk"}
    assert published_counts(manifest)[1][2:] == (1, 501)


def test_the_preview_refuses_a_person_in_training_and_test(tmp_path: Path) -> None:
    entries = {
        "original_videos/1/1_A.mp4": {"label": "real", "set": "train"},
        "method_A/1/2/1_2.mp4": {"label": "fake", "set": "test"},
    }
    with pytest.raises(DataError, match=r"dfdcp:1\)"):
        scan(_preview(tmp_path, entries))


def test_the_preview_refuses_another_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set train or test .*'dev'"):
        scan(_preview(tmp_path, {"method_A/1/2/1_2.mp4": {"label": "fake", "set": "dev"}}))
