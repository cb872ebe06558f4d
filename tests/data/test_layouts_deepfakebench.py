from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from dfcore.data import FAKE, REAL, scan
from dfcore.errors import DataError
from tests.data.trees import by_id, reasons, touch, write_json

FFPP = {
    "FF-real": ("original_sequences/youtube", "000"),
    "FF-DF": ("manipulated_sequences/Deepfakes", "000_003"),
}


def _entry(label: str, folder: str, stills: Iterable[int] = (0, 9, 10), masks: str = "") -> dict[str, Any]:
    frames = [f"{folder}/{number}.png" for number in stills]
    # os.scandir gives them in no order
    entry: dict[str, Any] = {"label": label, "frames": frames[::-1]}
    return entry | ({"masks": [f"{masks}/{number}.png" for number in stills]} if masks else {})


def _disk(root: Path, document: Any) -> None:
    """Put the frames and masks that a document names on disk."""
    if isinstance(document, dict):
        for value in document.values():
            _disk(root, value)
    elif isinstance(document, list):
        touch(root, (name.replace("\\", "/") for name in document))


def _ffpp(quality: str, split: str = "train") -> dict[str, Any]:
    document: dict[str, Any] = {}
    for label, (place, video) in FFPP.items():
        base = f"FaceForensics++/{place}/{quality}"
        masks = f"FaceForensics++/{place}/c23/masks/{video}" if label == "FF-DF" else ""
        entry = _entry(label, f"{base}/frames/{video}", masks=masks)
        splits: dict[str, Any] = {"train": {quality: {}}, "val": {quality: {}}, "test": {quality: {}}}
        splits[split][quality][video] = entry
        document[label] = splits
    return document


@pytest.mark.parametrize("folder", ["dataset_json", "preprocessing/dataset_json", ""])
def test_compression_is_a_level_and_methods_have_lists_of_their_own(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "fake"
    both = _ffpp("c23")
    for label, splits in _ffpp("c40").items():
        for split, qualities in splits.items():
            both[label][split] |= qualities
    _disk(root, both)
    write_json(root / folder / "FaceForensics++.json", {"FaceForensics++": both})
    write_json(root / folder / "FF-DF.json", {"FF-DF": both})
    manifest = scan(root)
    samples = by_id(manifest)
    assert set(samples) == {
        f"ffpp/{name}" for name in ("original/c23/000", "original/c40/000", "Deepfakes/c23/000_003",
                                    "Deepfakes/c40/000_003")
    }  # fmt: skip
    fake, real = samples["ffpp/Deepfakes/c40/000_003"], samples["ffpp/original/c23/000"]
    assert (fake.label, real.label) == (FAKE, REAL)
    assert fake.group_id == real.group_id == "ffpp:000"
    assert fake.frames == ("0.png", "9.png", "10.png")  # by number
    assert fake.mask == "FaceForensics++/manipulated_sequences/Deepfakes/c23/masks/000_003"
    assert fake.cropped
    assert manifest.skipped == ()


@pytest.mark.parametrize(
    ("written", "inside"),
    [
        ("FaceForensics++/{}", "{}"),
        (".\\datasets\\rgb\\FaceForensics++\\{}", "FaceForensics++/{}"),
        ("/home/other/datasets/rgb/FaceForensics++/{}", "rgb/FaceForensics++/{}"),
        ("datasets/rgb/FaceForensics++/{}", "copy/rgb/FaceForensics++/{}"),
    ],
)
def test_paths_of_another_machine(tmp_path: Path, written: str, inside: str) -> None:
    path = "original_sequences/youtube/c23/frames/000"
    touch(tmp_path, [f"{inside.format(path)}/1.png"])
    spelled = written.format(path.replace("/", "\\") if "\\" in written else path)
    frame = f"{spelled}\\1.png" if "\\" in written else f"{spelled}/1.png"
    videos = {
        "000": {"label": "FF-real", "frames": [frame]},
        "003": {"label": "FF-real", "frames": [frame, frame]},
    }
    videos["003"]["frames"] = [
        frame.replace("000", "003"),
        frame.replace("000", "003").replace("1.png", "2.png"),
    ]
    videos["000"]["frames"] = [frame, frame.replace("1.png", "2.png")]
    write_json(tmp_path / "dataset_json" / "x.json", {"FF": {"FF-real": {"train": {"c23": videos}}}})
    manifest = scan(tmp_path)
    (sample,) = manifest.samples
    # one of its two frames is on disk
    assert (sample.path, sample.frames) == (inside.format(path), ("1.png",))
    assert reasons(manifest) == {
        "dataset_json/x.json/FF/FF-real/train/003": "listed, but none of its frames is on disk"
    }


def test_a_folder_of_the_same_name_of_another_method_is_not_taken(tmp_path: Path) -> None:
    touch(tmp_path, ["FaceForensics++/manipulated_sequences/Deepfakes/c23/frames/000_003/1.png"])
    videos = {}
    for method in ("Face2Face", "Deepfakes"):
        frames = [
            f"FaceForensics++/manipulated_sequences/{method}/c23/frames/000_003/{n}.png" for n in (1, 2)
        ]
        videos[method] = {"train": {"c23": {"000_003": {"frames": frames}}}}
    document = {"FF-F2F": videos["Face2Face"], "FF-DF": videos["Deepfakes"]}
    write_json(tmp_path / "dataset_json" / "x.json", {"FaceForensics++": document})
    assert [sample.method for sample in scan(tmp_path).samples] == ["Deepfakes"]


def _celeb(folders: Iterable[str], split: str) -> dict[str, Any]:
    return {
        split: {
            folder.rpartition("/")[2]: _entry("x", f"Celeb-DF-v2/{folder.replace('/', '/frames/')}")
            for folder in folders
        }
    }


def test_a_test_video_that_is_listed_for_training_is_for_testing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # the lists put every video into train, and those of the official list into val and test as well
    real = ("Celeb-real/id0_0000", "Celeb-real/id1_0000", "YouTube-real/00001")
    fake = ("Celeb-synthesis/id0_id1_0000", "Celeb-synthesis/id1_id0_0000")
    document = {
        "CelebDFv2_real": _celeb(real, "train") | _celeb(real[1:], "val") | _celeb(real[1:], "test"),
        "CelebDFv2_fake": _celeb(fake, "train") | _celeb(fake[1:], "val") | _celeb(fake[1:], "test"),
    }
    _disk(tmp_path, document)
    write_json(tmp_path / "dataset_json" / "Celeb-DF-v2.json", {"Celeb-DF-v2": document})
    with caplog.at_level(logging.WARNING):
        manifest = scan(tmp_path)
    assert "3 videos are listed in several splits" in caplog.text
    assert {sample.sample_id: (sample.split, sample.label) for sample in manifest.samples} == {
        "celebdf/celeb-real/original/id0_0000": ("train", REAL),
        "celebdf/celeb-real/original/id1_0000": ("test", REAL),
        "celebdf/youtube-real/original/00001": ("test", REAL),
        "celebdf/celeb-synthesis/original/id0_id1_0000": ("train", FAKE),
        "celebdf/celeb-synthesis/original/id1_id0_0000": ("test", FAKE),
    }


def test_deepfakedetection_in_all_three_splits_is_for_testing(tmp_path: Path) -> None:
    base = "FaceForensics++/manipulated_sequences/DeepFakeDetection/c40/frames"
    video = {"c40": {"01_02__walk__ABCDEFGH": _entry("DFD_fake", f"{base}/01_02__walk__ABCDEFGH")}}
    document = {"DFD_fake": {"train": video, "val": video, "test": video}}
    _disk(tmp_path, document)
    write_json(tmp_path / "dataset_json" / "DeepFakeDetection.json", {"DeepFakeDetection": document})
    (sample,) = scan(tmp_path).samples
    assert (sample.dataset, sample.split, sample.compression, sample.group_id) == (
        "dfd",
        "test",
        "c40",
        "dfd:01",
    )


def test_other_data_sets_labels_and_single_images(tmp_path: Path) -> None:
    document = {
        "simswap_Real": {"train": {"id2_0001": _entry("x", "DF40/simswap/real/id2_0001")}},
        "simswap_Fake": {"test": {"id0_id1_0000": _entry("x", "DF40/simswap/cdf/id0_id1_0000")}},
        "ddim_Fake": {"val": {"a": _entry("x", "DF40/ddim/ff", [1]), "b": _entry("x", "DF40/ddim/ff", [2])}},
    }
    _disk(tmp_path, document)
    write_json(tmp_path / "dataset_json" / "DF40.json", {"DF40_c40": document})
    samples = by_id(scan(tmp_path))
    assert {sample.dataset for sample in samples.values()} == {"df40"}
    assert {sample.compression for sample in samples.values()} == {"c40"}
    assert samples["df40/simswap_Real/c40/id2_0001"].label == REAL
    fake = samples["df40/simswap_Fake/c40/id0_id1_0000"]
    assert (fake.label, fake.split, fake.group_id) == (FAKE, "test", "df40:id0")
    image = samples["df40/ddim_Fake/c40/a"]
    assert (image.kind, image.path, image.frames) == ("image", "DF40/ddim/ff/1.png", ())


def test_videos_of_one_name_in_two_folders(tmp_path: Path) -> None:
    document = {"DFDCP_FakeA": {"test": {
        "x": _entry("x", "DFDCP/method_A/1/frames/x"), "y": _entry("x", "DFDCP/method_A/3/frames/y"),
    }, "train": {"x": _entry("x", "DFDCP/method_A/2/frames/x")}}}  # fmt: skip
    _disk(tmp_path, document)
    write_json(tmp_path / "dataset_json" / "DFDCP.json", {"DFDCP": document})
    samples = by_id(scan(tmp_path))
    assert "dfdcp/DFDCP_FakeA/original/DFDCP/method_A/1/frames/x/x" in samples
    assert samples["dfdcp/DFDCP_FakeA/original/y"].group_id == "dfdcp:3"


def test_an_identity_in_two_splits_is_refused(tmp_path: Path) -> None:
    document = _ffpp("c23")
    document["FF-real"] = _ffpp("c23", "test")["FF-real"]
    _disk(tmp_path, document)
    write_json(tmp_path / "dataset_json" / "x.json", {"FaceForensics++": document})
    with pytest.raises(DataError, match="ffpp:000"):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"UADFV_Real": {"train": {}, "dev": {}}}, "'dev'"),
        ({"UADFV_Real": {"train": ["x"]}}, "got list where an object belongs"),
        ({"UADFV_Real": {"train": {"a": "x"}}}, "got str where an object belongs"),
    ],
)
def test_lists_of_another_form_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    write_json(tmp_path / "dataset_json" / "UADFV.json", {"UADFV": labels})
    with pytest.raises(DataError, match=message):
        scan(tmp_path)


def test_one_video_with_two_labels_is_refused(tmp_path: Path) -> None:
    entry = {"train": {"a": _entry("x", "Celeb-DF-v2/Celeb-real/frames/a")}}
    _disk(tmp_path, entry)
    document = {"CelebDFv2_real": entry, "CelebDFv2_fake": entry}
    write_json(tmp_path / "dataset_json" / "x.json", {"Celeb-DF-v2": document})
    with pytest.raises(DataError, match="expected one label for Celeb-DF-v2/Celeb-real/frames/a"):
        scan(tmp_path)


def test_json_of_something_else_is_no_list(tmp_path: Path) -> None:
    write_json(tmp_path / "dataset_json" / "settings.json", {"a": 1})
    with pytest.raises(DataError, match=r"deepfakebench: no dataset_json/\*\.json"):
        scan(tmp_path)
