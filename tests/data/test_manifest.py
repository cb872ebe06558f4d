from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dfcore.data import FAKE, REAL, Manifest, Sample, Skipped
from dfcore.errors import DataError

SAMPLE = Sample("d/original/c23/1", "d", "train", REAL, "original", "c23", "d:1", "1.mp4", "00")
OTHER = replace(
    SAMPLE, sample_id="d/swap/c23/1", label=FAKE, method="swap", path="2.tar", kind="frames",
    frames=("9.png", "10.png"), mask="masks/2.mp4", cropped=True, size=7, mtime_ns=1_700_000_000_123_456_789,
)  # fmt: skip


def test_it_survives_a_file_and_its_digest_is_content_only(tmp_path: Path) -> None:
    skipped = [Skipped("z.txt", "no video"), Skipped("a.txt", "no video")]
    manifest = Manifest([OTHER, SAMPLE], tmp_path / "here", overlap_allowed=["d"], skipped=skipped)
    manifest.write(tmp_path / "m.parquet")
    again = Manifest.read(tmp_path / "m.parquet")
    assert again.samples == (SAMPLE, OTHER)
    assert again.skipped == tuple(skipped[::-1])
    assert (again.root, again.overlap_allowed) == (tmp_path / "here", {"d"})
    assert again.digest == manifest.digest == Manifest([SAMPLE, OTHER], tmp_path).digest
    assert Manifest.read(tmp_path / "m.parquet", tmp_path).root == tmp_path
    # a touched file is the same content
    touched = [replace(SAMPLE, size=1, mtime_ns=2), OTHER]
    assert manifest.digest == Manifest(touched, tmp_path).digest
    for change in ({"sha256": "11"}, {"frames": ("9.png",)}, {"mask": ""}, {"cropped": False}):
        assert manifest.digest != Manifest([SAMPLE, replace(OTHER, **change)], tmp_path).digest


def test_a_group_in_two_splits_is_refused_unless_official(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crossing = [SAMPLE, replace(OTHER, split="test")]
    with pytest.raises(DataError, match="d:1"):
        Manifest(crossing, tmp_path)
    with caplog.at_level(logging.WARNING):
        Manifest(crossing, tmp_path, overlap_allowed=["d"])
    assert "d:1" in caplog.text
    # an official test split excuses no overlap of training and validation
    with pytest.raises(DataError, match=r"1 in several \(d:1\); split by identity"):
        Manifest([SAMPLE, replace(OTHER, split="val")], tmp_path, overlap_allowed=["d"])
    Manifest([SAMPLE, replace(OTHER, split="test", dataset="e")], tmp_path)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "expected samples"),
        ([SAMPLE, SAMPLE], "twice"),
        ([replace(SAMPLE, label=2)], "label 0 or 1"),
        ([replace(SAMPLE, split="dev")], "'dev'"),
    ],
)
def test_what_does_not_fit_is_refused(samples: list[Sample], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        Manifest(samples, tmp_path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a manifest"):
        Manifest.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(DataError, match="expected a manifest"):
        Manifest.read(tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="scan again"):
        Manifest.read(tmp_path / "other.parquet")
    old = pa.table({"sample_id": ["d"]}).replace_schema_metadata({"kind": "rampart-manifest", "version": "1"})
    pq.write_table(old, tmp_path / "old.parquet")
    with pytest.raises(DataError, match=r"version 2, got rampart-manifest version 1 .*scan again"):
        Manifest.read(tmp_path / "old.parquet")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").mkdir()
    with pytest.raises(OSError, match=r"m\.parquet"):
        Manifest([SAMPLE], tmp_path).write(tmp_path / "m.parquet")
    assert list(tmp_path.iterdir()) == [tmp_path / "m.parquet"]
