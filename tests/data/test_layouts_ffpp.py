from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dfcore.data import FAKE, REAL, published_counts, scan
from dfcore.errors import DataError
from tests.data.trees import FFPP_PAIRS, by_id, ffpp, ffpp_splits, reasons, touch


def test_it_follows_the_official_split(tmp_path: Path) -> None:
    # a root that contains "fake" and "real" says nothing about labels
    manifest = scan(ffpp(tmp_path / "fake-real"))
    samples = by_id(manifest)
    # the methods share names such as 003_000, so the method is part of the id
    assert len(samples) == 4 * 2 + 4 * 2 * 2
    fake = samples["ffpp/FaceSwap/c23/003_000"]
    assert (fake.label, fake.split, fake.method, fake.compression) == (FAKE, "train", "FaceSwap", "c23")
    real = samples["ffpp/original/c23/000"]
    assert (real.label, real.split, real.group_id) == (REAL, "train", fake.group_id)
    assert samples["ffpp/original/c23/001"].group_id != real.group_id
    assert samples["ffpp/Deepfakes/c23/006_007"].split == "test"
    assert manifest.skipped == ()


@pytest.mark.parametrize("place", ["", "splits", "dataset/splits"])
def test_the_split_may_lie_in_three_places(tmp_path: Path, place: str) -> None:
    assert len(scan(ffpp(tmp_path, splits=place)).samples) == 24


@pytest.mark.parametrize(
    ("folder", "compression"), [("raw", "raw"), ("c0", "raw"), ("C23", "c23"), ("c40", "c40")]
)
def test_all_qualities_and_methods(tmp_path: Path, folder: str, compression: str) -> None:
    methods = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
    manifest = scan(ffpp(tmp_path, folder, methods))
    assert {sample.compression for sample in manifest.samples} == {compression}
    assert {sample.method for sample in manifest.samples} == {"original", *methods}
    counts = {count.what: count for count in published_counts(manifest)}
    assert counts[f"{compression} FaceShifter"][2:] == (8, 1000)
    assert counts[f"{compression} real train"][2:] == (4, 720)


def test_deepfakedetection_has_no_split_and_is_for_testing(tmp_path: Path) -> None:
    root = touch(
        tmp_path,
        ["original_sequences/actors/c23/videos/01__exit_phone_room.mp4",
         "original_sequences/actors/c23/videos/03__talking.mp4",
         "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__exit_phone_room__YVGY8LOK.mp4"],
    )  # fmt: skip
    samples = by_id(scan(root))  # without the split files, which it does not need
    assert {sample.split for sample in samples.values()} == {"test"}
    fake = samples["dfd/DeepFakeDetection/c23/01_02__exit_phone_room__YVGY8LOK"]
    assert fake.label == FAKE
    assert samples["dfd/original/c23/01__exit_phone_room"].group_id == fake.group_id == "dfd:01"
    assert samples["dfd/original/c23/03__talking"].group_id == "dfd:03"


def test_the_mirror_with_one_quality(tmp_path: Path) -> None:
    ffpp_splits(tmp_path)
    names = [name for pairs in FFPP_PAIRS.values() for pair in pairs for name in pair]
    touch(tmp_path, (f"original/{name}.mp4" for name in names))
    touch(tmp_path, ["FaceShifter/000_003.mp4", "DeepFakeDetection/01_02__walk__ABCDEFGH.mp4", "csv/all.csv"])
    manifest = scan(tmp_path)
    samples = by_id(manifest)
    assert len(samples) == 10
    assert samples["ffpp/FaceShifter/c23/000_003"].split == "train"
    assert samples["dfd/DeepFakeDetection/c23/01_02__walk__ABCDEFGH"].split == "test"
    assert reasons(manifest) == {"csv/all.csv": "no video, image or archive by its suffix"}


@pytest.mark.parametrize(
    "folder",
    ["manipulated_sequences/FaceSwap/masks/videos", "masks/manipulated_sequences/FaceSwap/masks/videos"],
)
def test_masks_in_both_places(tmp_path: Path, folder: str) -> None:
    touch(ffpp(tmp_path), [f"{folder}/000_003.mp4", f"{folder}/999_998.mp4"])
    manifest = scan(tmp_path)
    samples = by_id(manifest)
    assert samples["ffpp/FaceSwap/c23/000_003"].mask == f"{folder}/000_003.mp4"
    assert samples["ffpp/Deepfakes/c23/000_003"].mask == ""
    assert len(samples) == 24


def test_extracted_frames_stand_for_videos_that_are_not_there(tmp_path: Path) -> None:
    ffpp_splits(tmp_path)
    real, fake = "original_sequences/youtube/c23", "manipulated_sequences/Face2Face/c23"
    touch(tmp_path, (f"{real}/frames/000/{number}.png" for number in (9, 10, 100)))
    touch(tmp_path, [f"{fake}/frames/000_003/004.png", f"{fake}/masks/000_003/004.png"])
    touch(tmp_path, [f"{fake}/landmarks/000_003/004.npy"])
    # FaceForensics++'s own script writes whole frames
    touch(tmp_path, ["original_sequences/youtube/c40/images/003/0000.png"])
    manifest = scan(tmp_path)
    samples = by_id(manifest)
    crops = samples["ffpp/original/c23/000"]
    assert (crops.kind, crops.cropped, crops.path) == ("frames", True, f"{real}/frames/000")
    assert crops.frames == ("9.png", "10.png", "100.png")
    assert samples["ffpp/Face2Face/c23/000_003"].mask == f"{fake}/masks/000_003"
    assert not samples["ffpp/original/c40/003"].cropped
    assert reasons(manifest) == {
        f"{fake}/landmarks/000_003/004.npy": "no video, image or archive by its suffix"
    }


def test_frames_beside_their_videos_are_left_alone(tmp_path: Path) -> None:
    touch(ffpp(tmp_path), ["original_sequences/youtube/c23/frames/000/000.png"])
    manifest = scan(tmp_path)
    assert len(manifest.samples) == 24
    (reason,) = reasons(manifest).values()
    assert reason == "extracted from videos that are there too (files: 1)"


def test_a_broken_split_is_refused(tmp_path: Path) -> None:
    root = ffpp(tmp_path)
    val = root / "splits" / "val.json"
    for text, message in (
        (json.dumps([["000", "005"]]), "id 000 in one split"),
        ("{}{", r"expected JSON in splits/val\.json"),
        (json.dumps([["004", "005", "006"]]), "list of id pairs"),
        ("[]", r"2 whose are not|6 whose are not"),
    ):
        val.write_text(text)
        with pytest.raises(DataError, match=message):
            scan(root)
    val.unlink()
    with pytest.raises(DataError, match=r"official val\.json .* github\.com/ondyari/FaceForensics"):
        scan(root)


def test_a_fake_over_two_splits_is_refused(tmp_path: Path) -> None:
    touch(ffpp(tmp_path), ["manipulated_sequences/FaceSwap/c23/videos/000_006.mp4"])
    with pytest.raises(DataError, match=r"1 in several \(ffpp:000\); split by identity"):
        scan(tmp_path)


def test_a_file_without_an_official_id_is_refused(tmp_path: Path) -> None:
    touch(ffpp(tmp_path), ["original_sequences/youtube/c23/videos/999.mp4"])
    with pytest.raises(DataError, match=r"official split, got 1 .*999\.mp4"):
        scan(tmp_path)


def test_half_of_the_tree_is_enough(tmp_path: Path) -> None:
    shutil.rmtree(ffpp(tmp_path) / "original_sequences")
    assert {sample.label for sample in scan(tmp_path).samples} == {FAKE}
