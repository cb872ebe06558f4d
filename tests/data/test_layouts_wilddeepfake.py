from __future__ import annotations

from pathlib import Path

import pytest

from dfcore.data import FAKE, REAL, Manifest, published_counts, scan
from dfcore.data.layouts import stills
from tests.data.trees import archive, by_id, reasons, sequences, touch


def _wild(root: Path, spelled: str = "_", ending: str = ".tar.gz") -> Path:
    for kind in ("real", "fake"):
        for split, numbers in (("train", range(1, 6)), ("test", range(1, 3))):
            for number in numbers:
                mark = f"{kind}{split}"
                # sequence ids repeat across archives, archive numbers across folders
                archive(
                    root / f"{kind}{spelled}{split}" / f"{number}{ending}",
                    sequences(number, kind, (0, 1), mark=mark),
                )
    return root


@pytest.mark.parametrize("spelled", ["_", " ", "-"])
def test_labels_and_splits_come_from_the_folder_alone(tmp_path: Path, spelled: str) -> None:
    # the published name of the root contains "fake"
    manifest = scan(_wild(tmp_path / "deepfake_in_the_wild", spelled))
    samples = by_id(manifest)
    assert len(samples) == 2 * 7 * 2
    real = samples["wilddeepfake/real/original/real_test/1/0"]
    assert (real.label, real.split, real.kind, real.cropped) == (REAL, "test", "frames", True)
    # by number: 8, 9, 10
    assert real.frames == tuple(f"./1/real/0/{number}.png" for number in (8, 9, 10))
    assert samples["wilddeepfake/wild/original/fake_train/5/1"].label == FAKE
    assert manifest.skipped == ()
    counts = {count.what: count[2:] for count in published_counts(manifest)}
    assert counts == {"sequences": (28, 7314), "source videos": (14, 707)}


def test_validation_is_made_by_archive(tmp_path: Path) -> None:
    manifest = scan(_wild(tmp_path).parent / tmp_path.name)
    for label in (REAL, FAKE):
        validating = {s.path for s in manifest.samples if (s.label, s.split) == (label, "val")}
        training = {s.path for s in manifest.samples if (s.label, s.split) == (label, "train")}
        assert len(validating) == 1
        assert len(training) == 4
        assert not validating & training


@pytest.mark.parametrize("ending", [".tar", ".tgz", ".zip"])
def test_other_archives_give_the_same_sequences(tmp_path: Path, ending: str) -> None:
    first = scan(_wild(tmp_path / "a"))
    second = scan(_wild(tmp_path / "b", ending=ending))
    assert {s.sample_id: s.sha256 for s in first.samples} == {s.sample_id: s.sha256 for s in second.samples}


def test_the_folder_above_and_unpacked_archives(tmp_path: Path) -> None:
    root = tmp_path / "deepfake_in_the_wild"
    archive(root / "fake_train" / "1.tar.gz", sequences(1, "fake", (0,)))
    touch(root, ["fake_train/1/fake/0/8.png", "real_test/2/real/7/1.png", "real_test/3/3/real/7/2.png",
                 "real_test/4/7/3.png", "real_test/5/fake/7/4.png"])  # fmt: skip
    manifest = scan(tmp_path)
    assert sorted(by_id(manifest)) == [
        "wilddeepfake/real/original/real_test/2/7", "wilddeepfake/real/original/real_test/3/7",
        "wilddeepfake/real/original/real_test/4/7", "wilddeepfake/wild/original/fake_train/1/0",
    ]  # fmt: skip
    assert reasons(manifest) == {
        "deepfake_in_the_wild/fake_train/1/": "unpacked from the archive 1, which is there too (files: 1)",
        "deepfake_in_the_wild/real_test/5/fake/7/":
            "it lies in fake/ inside real_test/; its label is unknown (files: 1)",
    }  # fmt: skip


def test_bad_archives_are_told_and_do_not_stop_the_scan(tmp_path: Path) -> None:
    folder = tmp_path / "fake_test"
    whole = archive(folder / "1.tar.gz", sequences(1, "fake", (0,)) | {"./1/readme.txt": b"x"})
    (folder / "2.tar.gz").write_bytes(whole.read_bytes()[:-40])
    (folder / "3.tar.gz").write_text("no archive")
    (folder / "4.zip").write_bytes(b"PK\x03\x04")
    archive(folder / "5.tar", {})
    archive(folder / "6.tar", sequences(6, "real", (0,)))
    (folder / "7.tar.gz").write_bytes(b"")
    manifest = scan(tmp_path)
    assert list(by_id(manifest)) == ["wilddeepfake/wild/original/fake_test/1/0"]
    told = reasons(manifest)
    for name in ("2.tar.gz", "3.tar.gz", "4.zip", "7.tar.gz"):
        assert told[f"fake_test/{name}"].startswith(
            "unreadable archive: expected a whole .tar, .tar.gz or .zip"
        )
    assert told["fake_test/1.tar.gz/1/readme.txt"] == "no image by its suffix"
    assert told["fake_test/5.tar"] == "an archive without images"
    assert told["fake_test/6.tar/6/real/0"] == "it lies in real/ inside fake_test/; its label is unknown"
    assert len(told) == 7, told


def test_a_second_scan_does_not_open_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _wild(tmp_path / "data")
    archive(root / "fake_test" / "8.tar.gz", sequences(8, "fake", (0,)) | {"./8/a.txt": b"x"})
    calls: list[tuple[int, int]] = []
    scan(root, progress=lambda done, total: calls.append((done, total))).write(tmp_path / "m.parquet")
    assert calls == [(done, 15) for done in range(1, 16)]
    known = Manifest.read(tmp_path / "m.parquet")
    opened: list[Path] = []
    read = stills.archive_members
    monkeypatch.setattr(stills, "archive_members", lambda path: opened.append(path) or read(path))
    again = scan(root, known=known)
    assert opened == []
    assert (again.samples, again.skipped) == (known.samples, known.skipped)
    archive(root / "fake_test" / "2.tar.gz", sequences(2, "fake", (0, 1, 2), mark="new"))
    assert len(scan(root, known=known).samples) == len(known.samples) + 1
    assert opened == [root / "fake_test" / "2.tar.gz"]


def test_a_copy_comes_back_when_the_first_is_gone(tmp_path: Path) -> None:
    first = archive(tmp_path / "fake_test" / "1.tar.gz", sequences(1, "fake", (0, 1)))
    archive(tmp_path / "fake_test" / "2.tar.gz", sequences(1, "fake", (0,)) | sequences(2, "fake", (5,)))
    known = scan(tmp_path)
    assert reasons(known) == {
        "fake_test/2.tar.gz/1/fake/0": "the same content as fake_test/1.tar.gz/1/fake/0"
    }
    first.unlink()
    assert len(scan(tmp_path, known=known).samples) == 2
