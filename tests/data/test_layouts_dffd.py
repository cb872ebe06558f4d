from __future__ import annotations

from pathlib import Path

import pytest

from dfcore.data import FAKE, REAL, published_counts, scan
from dfcore.errors import DataError
from tests.data.trees import by_id, touch


def test_prefixes_generators_and_splits(tmp_path: Path) -> None:
    touch(
        tmp_path / "fake faces",
        ["ffhq/train/R_FFHQ_00000.png", "ffhq/validation/R_FFHQ_10000.png", "ffhq/test/R_FFHQ_11000.png",
         "faceapp/train/F_FAP0_00000-1.png", "faceapp/train/F_FAP0_00000-2.png",
         "faceapp/test/F_FAP1_00333-1.png",
         "stargan/train/F_STGN_0000-01.png", "pggan_v1/test/F_PGN1_00000.png",
         "pggan_v2/test/F_PGN2_00000.png",
         "stylegan_celeba/val/F_SyCA_00000.png", "StyleGAN_FFHQ/train/F_SyFQ_00000.png", "stats.txt"],
    )  # fmt: skip
    manifest = scan(tmp_path / "fake faces")
    samples = by_id(manifest)
    assert len(samples) == 11
    assert all(sample.kind == "image" and sample.cropped for sample in samples.values())
    real = [sample.sample_id for sample in samples.values() if sample.label == REAL]
    assert real == [f"dffd/ffhq/original/R_FFHQ_{number}" for number in ("00000", "10000", "11000")]
    assert samples["dffd/ffhq/original/R_FFHQ_10000"].split == "val"
    assert samples["dffd/stylegan_celeba/original/F_SyCA_00000"].split == "val"
    assert samples["dffd/stylegan_ffhq/original/F_SyFQ_00000"].label == FAKE
    # variants made from one image are one group
    first, second = (samples[f"dffd/faceapp/original/F_FAP0_00000-{n}"] for n in (1, 2))
    assert first.group_id == second.group_id != samples["dffd/faceapp/original/F_FAP1_00333-1"].group_id
    counts = {count.what: count[2:] for count in published_counts(manifest)}
    assert counts == {"real": (3, 222_598), "fake": (8, 104_680)}


def test_variants_of_one_image_in_two_splits_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["faceapp/train/F_FAP0_00000-1.png", "faceapp/test/F_FAP0_00000-2.png"])
    with pytest.raises(DataError, match="dffd:faceapp-F_FAP0_00000"):
        scan(tmp_path)


def test_celeba_is_split_by_its_own_partition(tmp_path: Path) -> None:
    names = [
        f"CelebA/img_align_celeba/R_celeba_{number:06d}.jpg" for number in (1, 162_770, 162_771, 182_638)
    ]
    manifest = scan(touch(tmp_path, names))
    assert [sample.split for sample in manifest.samples] == ["train", "train", "val", "test"]


def test_images_cut_from_faceforensics_are_grouped_by_its_ids(tmp_path: Path) -> None:
    touch(tmp_path, ["youtube/train/R_000_12.png", "youtube/train/003_0001.png", "youtube/train/other.png",
                     "Deepfakes/train/F_000_003-0001.png", "FaceSwap/test/006_007.png"])  # fmt: skip
    groups = {sample.path.rpartition("/")[2]: sample.group_id for sample in scan(tmp_path).samples}
    assert groups["R_000_12.png"] == groups["003_0001.png"] == groups["F_000_003-0001.png"] == "dffd:ffpp-000"
    assert groups["006_007.png"] == "dffd:ffpp-006"
    assert groups["other.png"] == "dffd:ffpp-other"
    touch(tmp_path, ["Face2Face/test/003_000.png"])
    with pytest.raises(DataError, match="dffd:ffpp-000"):
        scan(tmp_path)


def test_a_prefix_against_its_folder_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["ffhq/train/F_FFHQ_00000.png"])
    with pytest.raises(DataError, match="expected the prefix R_ in ffhq/"):
        scan(tmp_path)
    touch(tmp_path / "b", ["stargan/train/R_STGN_00000.png"])
    with pytest.raises(DataError, match="expected the prefix F_ in stargan/"):
        scan(tmp_path / "b")


def test_real_fake_and_mask_folders(tmp_path: Path) -> None:
    touch(tmp_path, ["train/Real/a.png", "train/Fake/b.png", "train/Mask/b.png", "train/Fake/c.jpg",
                     "train/Mask/c.png", "eval/Real/d.png", "eval/Mask/x.png", "test/Fake/e.png",
                     "test/Mask/e.png"])  # fmt: skip
    manifest = scan(tmp_path)
    found = {sample.path: (sample.label, sample.split, sample.mask) for sample in manifest.samples}
    assert found == {
        "train/Real/a.png": (REAL, "train", ""),
        "train/Fake/b.png": (FAKE, "train", "train/Mask/b.png"),
        "train/Fake/c.jpg": (FAKE, "train", "train/Mask/c.png"),
        "eval/Real/d.png": (REAL, "val", ""),
        "test/Fake/e.png": (FAKE, "test", "test/Mask/e.png"),
    }
    assert manifest.skipped == ()
