from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dfcore.data import FAKE, REAL, published_counts, scan
from dfcore.errors import DataError
from tests.data.trees import CELEB_TEST, CELEB_TRAIN, celeb, celeb_list, reasons, touch


@pytest.mark.parametrize("level", ["", "videos/"])
def test_its_list_in_which_one_is_real(tmp_path: Path, level: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        manifest = scan(celeb(tmp_path, level))
    found = {(s.method, s.path.rpartition("/")[2]): (s.label, s.split) for s in manifest.samples}
    # both folders of real videos are there
    assert found == {
        ("celeb-real", "id0_0001.mp4"): (REAL, "train"),
        ("youtube-real", "00001.mp4"): (REAL, "train"),
        ("celeb-synthesis", "id0_id1_0001.mp4"): (FAKE, "train"),
        ("celeb-real", "id1_0000.mp4"): (REAL, "test"),
        ("youtube-real", "00002.mp4"): (REAL, "test"),
        ("celeb-synthesis", "id1_id0_0000.mp4"): (FAKE, "test"),
    }
    assert "celebdf:id0" in caplog.text  # the official split shares identities
    counts = {count.what: count[2:] for count in published_counts(manifest)}
    assert counts == {
        "celeb-real": (2, 590), "youtube-real": (2, 300), "fake": (2, 5639), "test real": (2, 178),
        "test fake": (1, 340),
    }  # fmt: skip


def test_other_spellings(tmp_path: Path) -> None:
    touch(tmp_path, (name.replace("YouTube-real", "Youtube-real").replace("Celeb-real", "celeb real")
                     for name in (*CELEB_TRAIN, *CELEB_TEST)))  # fmt: skip
    (tmp_path / "list_of_testing_videos.txt").write_text(
        "1 YouTube-real\\00002.MP4\n\n1 Celeb-real/videos/id1_0000.mp4\r\n"
        "0 Celeb-synthesis/id1_id0_0000.mp4\n"
    )
    assert sum(sample.split == "test" for sample in scan(tmp_path).samples) == 3


def test_an_incomplete_list_and_missing_videos_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    celeb(tmp_path)
    celeb_list(tmp_path, [name for name in CELEB_TEST if "YouTube" not in name])
    (tmp_path / CELEB_TEST[0]).unlink()
    with caplog.at_level(logging.WARNING):
        manifest = scan(tmp_path)
    assert "names no video of YouTube-real" in caplog.text
    assert "1 of 2 listed test videos are missing (Celeb-real/id1_0000.mp4)" in caplog.text
    assert reasons(manifest) == {CELEB_TEST[0]: "named in List_of_testing_videos.txt, not on disk"}


@pytest.mark.parametrize(
    "line", ["0 Celeb-real/id1_0000.mp4", "1 id1_0000.mp4", "Celeb-real/id1_0000.mp4", "x"]
)
def test_a_line_that_does_not_fit_is_refused(tmp_path: Path, line: str) -> None:
    celeb(tmp_path)
    (tmp_path / "List_of_testing_videos.txt").write_text(f"1 {CELEB_TEST[0]}\n{line}\n")
    with pytest.raises(DataError, match=r"\(line 2\); get the official list"):
        scan(tmp_path)


def test_a_list_of_other_bytes_is_refused(tmp_path: Path) -> None:
    (celeb(tmp_path) / "List_of_testing_videos.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(DataError, match="readable UTF-8 file List_of"):
        scan(tmp_path)


def test_without_its_list_it_is_refused(tmp_path: Path) -> None:
    (celeb(tmp_path) / "List_of_testing_videos.txt").unlink()
    with pytest.raises(DataError, match="no List_of_testing_videos"):
        scan(tmp_path, "celebdf")


def _swapped(people: int) -> list[str]:
    """Everybody with everybody, as the real ones are."""
    names = [f"Celeb-real/id{a}_0000.mp4" for a in range(people)]
    return names + [
        f"Celeb-synthesis/id{a}_id{b}_0000.mp4" for a in range(people) for b in range(people) if a != b
    ]


def test_validation_people_are_in_no_training_video(tmp_path: Path) -> None:
    touch(tmp_path, _swapped(20))
    touch(tmp_path, [f"YouTube-real/{number:05d}.mp4" for number in range(30)])
    tests = ["Celeb-real/id3_0000.mp4", "Celeb-synthesis/id3_id4_0000.mp4", "YouTube-real/00001.mp4"]
    celeb_list(tmp_path, tests)
    manifest = scan(tmp_path)
    people: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    labels: dict[str, set[int]] = {"train": set(), "val": set(), "test": set()}
    for sample in manifest.samples:
        name = Path(sample.path).stem
        people[sample.split] |= set(name.split("_")[:-1]) or {name}
        labels[sample.split].add(sample.label)
    assert not people["train"] & people["val"]
    assert labels == {split: {REAL, FAKE} for split in people}
    assert sum(sample.split == "test" for sample in manifest.samples) == 3
    # fakes of one person of each side: 2 of 20 people are held out
    left_out = [path for path, reason in manifest.skipped if reason.startswith("left out")]
    assert 60 <= len(left_out) <= 2 * 2 * 18
    counts = {count.what: count.found for count in published_counts(manifest)}
    assert counts["fake"] == 380
    assert manifest.digest == scan(tmp_path).digest


def test_people_who_are_not_all_connected_are_held_out_without_loss(tmp_path: Path) -> None:
    # ten circles of three people
    names = [
        f"Celeb-synthesis/id{3 * c + a}_id{3 * c + b}_0000.mp4"
        for c in range(10)
        for a, b in ((0, 1), (1, 2))
    ]
    touch(tmp_path, names)
    celeb_list(tmp_path, [])
    manifest = scan(tmp_path)
    assert len(manifest.samples) == 20
    assert sum(sample.split == "val" for sample in manifest.samples) == 2


def test_the_first_version_is_told_by_its_list(tmp_path: Path) -> None:
    real = [f"YouTube-real/{number:05d}.mp4" for number in range(38)]
    fake = [f"Celeb-synthesis/id0_id1_{number:04d}.mp4" for number in range(62)]
    touch(tmp_path, (*real, *fake, "Celeb-real/id0_0000.mp4"))
    celeb_list(tmp_path, (*real, *fake))
    manifest = scan(tmp_path)
    assert {sample.dataset for sample in manifest.samples} == {"celebdf_v1"}
    assert {count.what: count[2:] for count in published_counts(manifest)}["test fake"] == (62, 62)


def test_celebdf_plus_plus_has_methods_as_folders(tmp_path: Path) -> None:
    touch(tmp_path, CELEB_TRAIN[:2])
    names = ("FaceSwap/BlendFace/id0_id1_0001.mp4", "TalkingFace/FLOAT/id0_id1_0001.mp4")
    touch(tmp_path, (f"Celeb-synthesis/{name}" for name in names))
    celeb_list(tmp_path, [f"Celeb-synthesis/{names[0]}"])
    samples = {sample.sample_id: sample.split for sample in scan(tmp_path).samples}
    assert samples["celebdf_pp/BlendFace/original/id0_id1_0001"] == "test"
    assert samples["celebdf_pp/FLOAT/original/id0_id1_0001"] == "train"


def test_preprocessed_frames(tmp_path: Path) -> None:
    touch(tmp_path, ["Celeb-real/frames/id0_0001/000.png", "Celeb-synthesis/frames/id0_id1_0001/000.png",
                     "YouTube-real/00001.mp4", "YouTube-real/frames/00001/000.png"])  # fmt: skip
    celeb_list(tmp_path, ["Celeb-synthesis/id0_id1_0001.mp4"])
    manifest = scan(tmp_path)
    assert list(reasons(manifest).values()) == ["extracted from videos that are there too (files: 1)"]
    found = {sample.path: (sample.split, sample.cropped) for sample in manifest.samples}
    assert found == {
        "Celeb-real/frames/id0_0001": ("train", True), "Celeb-synthesis/frames/id0_id1_0001": ("test", True),
        "YouTube-real/00001.mp4": ("train", False),
    }  # fmt: skip
