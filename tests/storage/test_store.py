from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dfcore.errors import ConfigError, ConflictError, DataError, WorkFailed
from dfcore.storage import FileStore, ObjectStore, S3Store, open_store, write_atomic

RACERS = 12


def test_reads_what_was_written(store: ObjectStore) -> None:
    store.put("a/b.json", b"one")
    assert store.get("a/b.json") == b"one"
    store.put("a/b.json", b"two")
    assert store.get("a/b.json") == b"two"


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    assert store.etag("a/none") is None
    with pytest.raises(DataError, match=r"expected an object at .*a/none, found none"):
        store.get("a/none")
    with pytest.raises(DataError, match="expected objects below"):
        store.download_folder("a", Path("unused"))


def test_put_if_absent_keeps_the_first(store: ObjectStore) -> None:
    store.put_if_absent("k", b"first")
    with pytest.raises(ConflictError, match="somebody else created it first"):
        store.put_if_absent("k", b"second")
    assert store.get("k") == b"first"


def test_replace_compares_before_it_swaps(store: ObjectStore) -> None:
    with pytest.raises(ConflictError, match="moved it first"):
        store.replace("k", b"new", "no-such-tag")
    store.put("k", b"old")
    tag = store.read("k").etag
    assert tag == store.etag("k")
    store.replace("k", b"new", tag)
    with pytest.raises(ConflictError, match="moved it first"):
        store.replace("k", b"newer", tag)
    assert store.get("k") == b"new"


def _race(attempt: Callable[[int], bool]) -> list[bool]:
    barrier = threading.Barrier(RACERS)

    def run(number: int) -> bool:
        barrier.wait()
        return attempt(number)

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(run, range(RACERS)))


def _wins(act: Callable[[], None]) -> bool:
    try:
        act()
    except ConflictError:
        return False
    return True


def test_of_racing_creators_one_wins(store: ObjectStore) -> None:
    won = _race(lambda number: _wins(lambda: store.put_if_absent("race", str(number).encode())))
    assert won.count(True) == 1
    assert store.get("race") == str(won.index(True)).encode()


def test_of_racing_swappers_one_wins(store: ObjectStore) -> None:
    store.put("race", b"start")
    tag = store.read("race").etag
    won = _race(lambda number: _wins(lambda: store.replace("race", str(number).encode(), tag)))
    assert won.count(True) == 1
    assert store.get("race") == str(won.index(True)).encode()


def _create_and_swap(root: str, number: int, results: multiprocessing.Queue[tuple[bool, int]]) -> None:
    store = FileStore(Path(root))
    created = _wins(lambda: store.put_if_absent("race", str(number).encode()))
    swaps = 0
    for _ in range(20):
        before = store.read("count")
        swaps += _wins(
            lambda before=before: store.replace("count", str(int(before.data) + 1).encode(), before.etag)
        )
    results.put((created, swaps))


def test_file_store_holds_between_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    store, results = FileStore(tmp_path), context.Queue()
    store.put("count", b"0")
    workers = [context.Process(target=_create_and_swap, args=(str(tmp_path), n, results)) for n in range(4)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(created for created, _ in found) == 1
    assert int(store.get("count")) == sum(swaps for _, swaps in found) > 0


def test_entries_tell_size_and_age(store: ObjectStore) -> None:
    store.put("m/a", b"12345")
    (entry,) = store.entries("m/")
    assert (entry.key, entry.size) == ("m/a", 5)
    assert abs((store.now() - entry.modified).total_seconds()) < 60


def test_deletes_and_forgets(store: ObjectStore) -> None:
    for key in ("m/a/1", "m/a/2", "m/b"):
        store.put(key, b"x")
    store.delete("m/a/1")
    store.delete("m/none")
    assert list(store.list()) == ["m/a/2", "m/b"]
    store.delete("m/a/2")
    assert list(store.list()) == ["m/b"]
    store.put_if_absent("m/a/1", b"again")
    assert store.get("m/a/1") == b"again"


def test_an_empty_object_is_one(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    store.upload_file(tmp_path / "empty", "none")
    store.download_file("none", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""
    with pytest.raises(DataError, match="found none"):
        store.download_file("other", tmp_path / "back")


def test_lists_keys_by_prefix_in_order(store: ObjectStore) -> None:
    for key in ("m/b/2", "m/b/1", "m/bc", "n/1"):
        store.put(key, b"x")
    assert list(store.list("m/b")) == ["m/b/1", "m/b/2", "m/bc"]
    assert list(store.list("m/b/")) == ["m/b/1", "m/b/2"]
    assert list(store.list()) == ["m/b/1", "m/b/2", "m/bc", "n/1"]
    assert list(store.list("none/")) == []


def test_a_folder_survives_the_round_trip(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_atomic(source / "deep/x.bin", os.urandom(100_000))
    write_atomic(source / "a.json", b"{}")
    assert list(store.upload_folder(source, "v1", last="a.json")) == ["v1/deep/x.bin", "v1/a.json"]
    store.download_folder("v1", tmp_path / "back")
    assert (tmp_path / "back/deep/x.bin").read_bytes() == (source / "deep/x.bin").read_bytes()
    assert (tmp_path / "back/a.json").read_bytes() == b"{}"
    open_store(f"{store.uri}/v1").download_folder("", tmp_path / "whole")
    assert (tmp_path / "whole/a.json").read_bytes() == b"{}"
    with pytest.raises(ConflictError, match="created it first"):
        store.upload_folder(source, "v1")


@pytest.mark.parametrize("key", ["", "/abs", "a//b", "../out", "a/../b", ".hidden", "a\\b", "a/"])
def test_a_key_never_leaves_the_store(store: ObjectStore, key: str) -> None:
    with pytest.raises(ConfigError, match="expected a key such as"):
        store.put(key, b"x")


def test_addresses(tmp_path: Path) -> None:
    for address in (tmp_path, str(tmp_path), tmp_path.as_uri(), f"file://localhost{tmp_path}"):
        opened = open_store(address)
        assert isinstance(opened, FileStore)
        assert opened.root == tmp_path
    spaced = open_store("file:///tmp/a%20b")
    assert isinstance(spaced, FileStore)
    assert spaced.root == Path("/tmp/a b")  # noqa: S108  # nothing is written
    remote = open_store("s3://bucket/deep/prefix/")
    assert isinstance(remote, S3Store)
    assert (remote.bucket, remote.prefix, remote.uri) == ("bucket", "deep/prefix/", "s3://bucket/deep/prefix")


@pytest.mark.parametrize("address", ["gs://bucket", "s3://", "file://elsewhere/x"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="expected a path, file:///PATH or s3://BUCKET/PREFIX"):
        open_store(address)


def test_a_failed_write_leaves_the_old_file_and_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkFailed, match="No space left on device; free space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["x"]


def test_what_a_killed_process_left_is_found(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put("m/a", b"x")
    (tmp_path / "m/.rampart-abc").write_bytes(b"half")
    (left,) = store.unfinished("m/")
    assert left.key == "m/.rampart-abc"
    assert [entry.key for entry in store.entries()] == ["m/a"]
    store.abort(left)
    assert list(store.unfinished()) == []


def test_a_store_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkFailed, match=r"expected to write below .*/file/store"):
        FileStore(tmp_path / "file/store").put("a", b"x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(WorkFailed, match=r"expected to read .*/loop, got: Too many levels"):
        FileStore(tmp_path).get("loop")


def test_an_unwritable_place_is_reported() -> None:
    with pytest.raises(WorkFailed, match="expected to write /dev/full/x"):
        write_atomic(Path("/dev/full/x"), b"new")
