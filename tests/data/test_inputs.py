from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from dfcore.data import Sample, inputs
from dfcore.data.inputs import archive_members, read_frames
from dfcore.errors import MediaError
from tests.data.trees import archive, touch

ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")


def _sample(path: str, frames: tuple[str, ...]) -> Sample:
    return Sample("d/m/c/1", "d", "train", 1, "m", "c", "d:1", path, "", "frames", frames)


def _contents(stills: int = 40) -> dict[str, bytes]:
    rng = random.Random(0)  # noqa: S311
    names = [f"./7/fake/{one}/{number}.png" for one in range(4) for number in range(stills)]
    rng.shuffle(names)
    return {name: rng.randbytes(rng.randint(1, 30_000)) for name in names}


@pytest.mark.parametrize("ending", ENDINGS)
def test_stills_are_spread_over_the_whole_sequence(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_STATE_EVERY", 100_000)  # many states in a small archive
    contents = _contents()
    archive(tmp_path / f"a{ending}", contents)
    for one in (2, 0, 3, 1):
        frames = tuple(f"./7/fake/{one}/{number}.png" for number in range(40))
        read = read_frames(tmp_path, _sample(f"a{ending}", frames), 4)
        # the middle of each of four equal parts, not the first four
        assert [place for place, _ in read] == [5, 15, 25, 35]
        assert all(data == contents[frames[place]] for place, data in read)


def test_a_short_sequence_is_given_once(tmp_path: Path) -> None:
    touch(tmp_path / "clip", ["9.png", "10.png"])
    assert read_frames(tmp_path, _sample("clip", ("9.png", "10.png")), 32) == [(0, b"9.png"), (1, b"10.png")]


def test_a_gzip_file_of_several_members(tmp_path: Path) -> None:
    contents = _contents(5)
    tar = archive(tmp_path / "a.tar", contents).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar[:10_000]) + gzip.compress(tar[10_000:]))
    frames = tuple(contents)
    read = read_frames(tmp_path, _sample("a.tar.gz", frames), 99)
    assert [data for _, data in read] == list(contents.values())
    assert len(dict(archive_members(tmp_path / "a.tar.gz"))) == len(contents)


def test_very_compressible_stills(tmp_path: Path) -> None:
    contents = {"a/0.png": bytes(3_000_000), "a/1.png": b"\x01" * 2_000_000}
    archive(tmp_path / "a.tar.gz", contents)
    read = read_frames(tmp_path, _sample("a.tar.gz", ("a/1.png", "a/0.png")), 2)
    assert [data for _, data in read] == [contents["a/1.png"], contents["a/0.png"]]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_missing_still_is_named(tmp_path: Path, ending: str) -> None:
    archive(tmp_path / f"a{ending}", {"a/0.png": b"x"})
    with pytest.raises(MediaError, match=r"expected a/1\.png in a.*scan again"):
        read_frames(tmp_path, _sample(f"a{ending}", ("a/1.png",)), 1)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_an_archive_cut_short_after_the_scan(tmp_path: Path, ending: str) -> None:
    contents = _contents(20)
    path = archive(tmp_path / f"a{ending}", contents)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match="expected the stills of a"):
        read_frames(tmp_path, _sample(path.name, tuple(contents)), 80)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="No such file"):
        read_frames(tmp_path, _sample("a.tar", ("x.png",)), 1)
    (tmp_path / "clip").mkdir()
    with pytest.raises(MediaError, match="No such file"):
        read_frames(tmp_path, _sample("clip", ("x.png",)), 1)


@pytest.mark.parametrize("ending", ["/", *ENDINGS])
def test_a_still_beyond_the_limit_is_not_read(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_MAX_STILL", 1000)
    if ending == "/":
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "0.png").write_bytes(bytes(1001))
    else:
        path = archive(tmp_path / f"a{ending}", {"0.png": bytes(1001)})
        with pytest.raises(MediaError, match="at most 1000 bytes"):
            list(archive_members(path))
    with pytest.raises(MediaError, match="at most 1000 bytes"):
        read_frames(tmp_path, _sample(f"a{ending}".rstrip("/"), ("0.png",)), 1)
