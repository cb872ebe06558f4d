from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dfcore.data import FAKE, LAYOUTS, REAL, Manifest, register_layout, scan
from dfcore.data.layouts import samples as samples_module
from dfcore.data.layouts.tree import Tree
from dfcore.errors import ConfigError, DataError
from tests.data.trees import by_id, ffpp, reasons, touch


def test_a_folder_without_splits_is_split_by_group(tmp_path: Path) -> None:
    names = [f"{kind}/p{i}__{j}.png" for kind in ("real", "fake/swap") for i in range(40) for j in "ab"]
    manifest = scan(touch(tmp_path, names))
    assert len(manifest.samples) == 160
    assert {s.label: s.method for s in manifest.samples} == {REAL: "real", FAKE: "swap"}
    counts = [sum(s.split == name for s in manifest.samples) for name in ("train", "val", "test")]
    assert counts[0] > max(counts[1:]) > 0 < min(counts[1:])


def test_a_folder_with_splits_keeps_them_and_refuses_a_crossing_group(tmp_path: Path) -> None:
    touch(tmp_path, ["train/real/a__1.mp4", "test/fake/b__1.mp4"])
    assert {s.split: s.label for s in scan(tmp_path).samples} == {"train": REAL, "test": FAKE}
    touch(tmp_path, ["test/real/a__2.mp4"])
    with pytest.raises(DataError, match="folder:a"):
        scan(tmp_path)


def test_other_spellings_of_plain_folders(tmp_path: Path) -> None:
    # sorted by name, fake comes before real: an index is no label
    touch(tmp_path, ["Training/0_Real/a.mp4", "Validation/1_fake/b.mp4", "testing/Fake/swap/c.png"])
    found = {sample.path: (sample.split, sample.label, sample.kind) for sample in scan(tmp_path).samples}
    assert found == {
        "Training/0_Real/a.mp4": ("train", REAL, "video"),
        "Validation/1_fake/b.mp4": ("val", FAKE, "video"),
        "testing/Fake/swap/c.png": ("test", FAKE, "image"),
    }


def test_numbered_stills_below_a_method_are_one_video(tmp_path: Path) -> None:
    touch(tmp_path, (f"fake/{method}/p1__a/{n}.png" for method in ("swap", "morph") for n in (1, 2, 10)))
    touch(tmp_path, ["real/p2/1.png", "real/p2/2.png", "real/web/p3/portrait.png"])
    samples = by_id(scan(tmp_path))
    # two methods with a folder of the same name are two videos
    videos = [sample for sample in samples.values() if sample.kind == "frames"]
    assert [(s.method, s.frames, s.group_id) for s in videos] == [
        (method, ("1.png", "2.png", "10.png"), "folder:p1") for method in ("morph", "swap")
    ]
    assert sum(sample.kind == "image" for sample in samples.values()) == 3


def test_what_is_not_recognised_says_what_was_missing(tmp_path: Path) -> None:
    touch(tmp_path, ["clips/a.mp4"])
    with pytest.raises(DataError, match="recognised none") as caught:
        scan(tmp_path)
    for line in (
        "ffpp: no original_sequences/", "celebdf: no Celeb-real/", "dffd: no ffhq/", "dfdc: no metadata.json",
        "wilddeepfake: no real_train/", "deepfakebench: no dataset_json/", "folder: no real/ and fake/",
    ):  # fmt: skip
        assert f"\n  {line}" in str(caught.value)


def test_a_named_layout_says_what_is_missing(tmp_path: Path) -> None:
    touch(tmp_path, ["real/a.mp4", "fake/b.mp4"])
    for layout in set(LAYOUTS) - {"folder"}:
        with pytest.raises(DataError, match=f"expected the layout {layout} in .*, got no "):
            scan(tmp_path, layout)


def test_wrong_roots_and_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder without files"):
        scan(tmp_path)
    with pytest.raises(DataError, match="which is none"):
        scan(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="which is none"):
        scan(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"expected auto or one of .*ffpp, .*did you mean 'celebdf'"):
        scan(tmp_path, "celebd")
    with pytest.raises(ConfigError, match="taken"):
        register_layout("ffpp", LAYOUTS["ffpp"])


def test_symbolic_links_and_their_loops(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", ["b.mp4", "deep/c.mp4"])
    root = touch(tmp_path / "data", ["real/a.mp4"])
    (root / "fake").symlink_to(tmp_path / "elsewhere")
    (root / "real" / "up").symlink_to(root)
    (root / "real" / "self").symlink_to("self")
    (root / "real" / "gone.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "elsewhere" / "deep" / "again").symlink_to(tmp_path / "elsewhere")
    (root / "real" / "pipe.mp4").unlink(missing_ok=True)
    os.mkfifo(root / "real" / "pipe.mp4")
    manifest = scan(root)
    assert sorted(sample.path for sample in manifest.samples) == [
        "fake/b.mp4",
        "fake/deep/c.mp4",
        "real/a.mp4",
    ]
    assert reasons(manifest) == {
        "fake/deep/again/": "a link into a folder that is read already",
        "real/up/": "a link into a folder that is read already",
        "real/self": "unreadable: Too many levels of symbolic links",
        "real/gone.mp4": "unreadable: No such file or directory",
        "real/pipe.mp4": "neither a file nor a folder",
    }


def test_many_links_between_folders_end(tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(9)]
    touch(tmp_path, (f"{name}/{name}.mp4" for name in names))
    for name in names:
        for other in names:
            if other != name:
                (tmp_path / name / other).symlink_to(tmp_path / other)
    assert Tree(tmp_path).num_files < 9 * 9 * 9


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    touch(tmp_path, ["real/a.mp4", "fake/b.mp4"])
    (tmp_path / "real" / os.fsdecode(b"caf\xe9.mp4")).touch()
    folder = tmp_path / "real" / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / "c.mp4").touch()
    manifest = scan(tmp_path)
    assert reasons(manifest) == {
        "real/caf\\xe9.mp4": "its name is not UTF-8; rename it",
        "real/\\xff": "its name is not UTF-8; rename it",
    }
    manifest.write(tmp_path.parent / "m.parquet")
    assert Manifest.read(tmp_path.parent / "m.parquet").skipped == manifest.skipped
    with pytest.raises(DataError, match="path is UTF-8"):
        scan(folder)


def test_names_in_utf8_are_kept(tmp_path: Path) -> None:
    manifest = scan(touch(tmp_path, ["real/Zoë 1.mp4", "fake/日本.mp4"]))
    assert sorted(sample.path for sample in manifest.samples) == ["fake/日本.mp4", "real/Zoë 1.mp4"]


def test_empty_videos_and_text_stay_for_the_report(tmp_path: Path) -> None:
    touch(tmp_path, ["train/real/a.mp4"])
    for name in ("train/real/empty.mp4", "train/fake/empty2.mp4", "test/fake/empty3.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "train/fake/text.mp4").write_text("no video")
    manifest = scan(tmp_path)
    assert len(manifest.samples) == 5  # empty ones are no copies of one another
    assert manifest.skipped == ()


def test_copies_are_kept_once(tmp_path: Path) -> None:
    touch(tmp_path, ["train/real/a.mp4", "train/fake/b.mp4"])
    (tmp_path / "train" / "real" / "z.mp4").write_bytes(b"train/real/a.mp4")
    manifest = scan(tmp_path)
    assert len(manifest.samples) == 2
    assert reasons(manifest) == {"train/real/z.mp4": "the same content as train/real/a.mp4"}
    (tmp_path / "train" / "fake" / "y.mp4").write_bytes(b"train/real/a.mp4")
    with pytest.raises(DataError, match=r"one split with one label, got 2 copies.*train/real/a\.mp4"):
        scan(tmp_path)
    (tmp_path / "train" / "fake" / "y.mp4").unlink()
    (tmp_path / "test" / "real").mkdir(parents=True)
    (tmp_path / "test" / "real" / "y.mp4").write_bytes(b"train/real/a.mp4")
    with pytest.raises(DataError, match=r"one split with one label, got \d copies"):
        scan(tmp_path)


def test_unreadable_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, ["real/a.mp4", "real/b.mp4", "fake/swap/v/1.png", "fake/swap/v/2.png", "fake/c.mp4"])
    read = samples_module.sha256_file

    def fails(path: Path) -> str:  # root reads everything, so the disk has to fail
        if path.name in {"b.mp4", "2.png"}:
            raise OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(samples_module, "sha256_file", fails)
    manifest = scan(tmp_path)
    assert sorted(sample.path for sample in manifest.samples) == ["fake/c.mp4", "real/a.mp4"]
    assert reasons(manifest) == dict.fromkeys(("real/b.mp4", "fake/swap/v"), "unreadable: Input/output error")


def test_every_other_file_is_told_and_many_are_one_line(tmp_path: Path) -> None:
    touch(ffpp(tmp_path), ["README.txt", "extra/a.mp4", *(f"landmarks/{n:03d}.npy" for n in range(150))])
    assert reasons(scan(tmp_path)) == {
        "README.txt": "no video, image or archive by its suffix",
        "extra/a.mp4": "not where the layout ffpp has its samples",
        "landmarks/": "no video, image or archive by its suffix (files: 150)",
    }


def test_a_second_scan_reads_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, (f"{kind}/{number}.mp4" for kind in ("real", "fake") for number in range(500)))
    touch(tmp_path, (f"fake/swap/v/{number}.png" for number in range(9)))
    known = scan(tmp_path)
    read: list[Path] = []
    digest = samples_module.sha256_file
    monkeypatch.setattr(samples_module, "sha256_file", lambda path: read.append(path) or digest(path))
    started = time.perf_counter()
    again = scan(tmp_path, known=known)
    assert time.perf_counter() - started < 1
    assert read == []
    assert (again.samples, again.digest) == (known.samples, known.digest)
    (tmp_path / "real" / "7.mp4").write_bytes(b"changed")
    (tmp_path / "fake" / "swap" / "v" / "8.png").write_bytes(b"changed")
    calls: list[tuple[int, int]] = []
    changed = scan(tmp_path, known=known, progress=lambda done, total: calls.append((done, total)))
    assert sorted({path.name for path in read}) == sorted(
        {"7.mp4", *(f"{number}.png" for number in range(9))}
    )
    assert calls == [(1, 2), (2, 2)]
    assert changed.digest != known.digest
