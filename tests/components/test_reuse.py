"""Reuse by content: same inputs, no work; changed inputs, new work; a broken run leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.reuse import code_digest, folder_digest, link_tree, reuse
from dfcore.errors import WorkFailed


def test_unchanged_work_is_not_done_again(tmp_path: Path) -> None:
    calls = []

    def work(out: Path) -> None:
        calls.append(out)
        out.mkdir(parents=True)
        (out / "a.txt").write_text("a")

    cache = str(tmp_path / "cache")
    assert not reuse("step", {"x": 1}, cache=cache, out=tmp_path / "one", work=work)
    assert reuse("step", {"x": 1}, cache=cache, out=tmp_path / "two", work=work)
    assert len(calls) == 1
    assert (tmp_path / "two" / "a.txt").read_text() == "a"
    assert not reuse("step", {"x": 2}, cache=cache, out=tmp_path / "three", work=work)
    assert len(calls) == 2


def test_without_a_cache_the_work_is_done_in_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert not reuse("step", {}, cache=None, out=out, work=lambda folder: folder.mkdir())
    assert out.is_dir()


def test_a_broken_run_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    def breaks(out: Path) -> None:
        out.mkdir(parents=True)
        (out / "half").write_text("half")
        raise WorkFailed("broke off")

    with pytest.raises(WorkFailed, match="broke off"):
        reuse("step", {}, cache=str(tmp_path / "cache"), out=tmp_path / "out", work=breaks)
    assert not (tmp_path / "out").exists()
    assert not reuse(
        "step", {}, cache=str(tmp_path / "cache"), out=tmp_path / "out", work=lambda out: out.mkdir()
    )
    assert not list((tmp_path / "out").iterdir())


def test_link_tree_fills_the_empty_folder_that_kfp_makes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "a").write_text("a")
    target.mkdir()
    link_tree(source, target)
    assert folder_digest(source) == folder_digest(target)
    assert not list(tmp_path.glob(".*partial"))


def test_folder_digest_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = folder_digest(tmp_path)
    (tmp_path / "a").write_text("2")
    second = folder_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, folder_digest(tmp_path)}) == 3


def test_code_digest_depends_on_the_packages() -> None:
    assert code_digest(("attacks",)) != code_digest(("models",))
    assert code_digest(("attacks",)) == code_digest(("attacks",))


def test_resumable_work_finds_what_an_interrupted_run_left(tmp_path: Path) -> None:
    def breaks(out: Path) -> None:
        out.mkdir(parents=True)
        (out / "checkpoint").write_text("half")
        raise WorkFailed("broke off")

    def goes_on(out: Path) -> None:
        assert (out / "checkpoint").read_text() == "half"
        (out / "whole").write_text("whole")

    cache, out = str(tmp_path / "cache"), tmp_path / "out"
    with pytest.raises(WorkFailed, match="broke off"):
        reuse("step", {}, cache=cache, out=out, work=breaks, resumable=True)
    assert not reuse("step", {}, cache=cache, out=out, work=goes_on, resumable=True)
    assert (out / "whole").is_file()
