from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from dfcore.data import CropStore, Shard, copy_parts, join_stores, parse_shard, prepare, prepare_shard, scan
from dfcore.errors import DataError
from tests.data.conftest import CONFIG

TOTAL = 3


@pytest.fixture(scope="module")
def shares(folder: Path, tmp_path_factory: pytest.TempPathFactory, store: CropStore) -> list[Path]:
    """The folders of three shards."""
    manifest, home = scan(folder), tmp_path_factory.mktemp("shares")
    for number in range(1, TOTAL + 1):
        done = prepare_shard(manifest, home / str(number), CONFIG, Shard(number, TOTAL))
        assert done.new == done.parts
    return [home / str(number) for number in range(1, TOTAL + 1)]


def test_the_joined_store_is_that_of_one_run(store: CropStore, shares: list[Path], tmp_path: Path) -> None:
    joined = join_stores(shares[::-1], tmp_path / "out")
    assert joined.digest == store.digest
    assert joined.index.equals(store.index)
    assert joined.report().equals(store.report())
    joined.verify()
    assert join_stores(shares, tmp_path / "out").digest == store.digest


def test_a_share_is_no_store(shares: list[Path]) -> None:
    with pytest.raises(DataError, match="finished crop store"):
        CropStore.open(shares[0])


def test_shards_may_share_a_folder(
    store: CropStore, folder: Path, shares: list[Path], tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    for number, share in enumerate(shares, 1):
        copy_parts(share, shared, Shard(number, TOTAL))
    assert prepare_shard(scan(folder), shared, CONFIG, Shard(2, TOTAL)).new == 0
    assert join_stores([shared], shared).digest == store.digest
    assert prepare(scan(folder), shared, CONFIG).digest == store.digest
    assert prepare_shard(scan(folder), shared, CONFIG, Shard(1, TOTAL)).new == 0
    with pytest.raises(DataError, match="expected the part from"):
        copy_parts(shares[0], tmp_path / "other", Shard(2, TOTAL))


def test_what_does_not_fit_together_is_refused(
    shares: list[Path], folder: Path, tmp_path: Path, store: CropStore
) -> None:
    with pytest.raises(DataError, match="at least one shard"):
        join_stores([], tmp_path / "out")
    with pytest.raises(DataError, match=r"expected all \d parts in 2 folders"):
        join_stores(shares[1:], tmp_path / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="rampart data prepare"):
        join_stores([*shares, empty], tmp_path / "out")
    other = Path(shutil.copytree(shares[0], tmp_path / "other"))
    mark = json.loads((other / "parts" / "inputs.json").read_text())
    config = mark["config"] | {"margin": 0.5}
    changed = mark | {"config": config, "settings": mark["settings"] | {"config": config}}
    (other / "parts" / "inputs.json").write_text(json.dumps(changed))
    with pytest.raises(DataError, match="one data set and settings"):
        join_stores([*shares, other], tmp_path / "out")
    (other / "parts" / "inputs.json").write_text(json.dumps(mark | {"manifest": "0" * 64}))
    with pytest.raises(DataError, match="the manifest of"):
        join_stores([other, *shares], tmp_path / "out")


def test_a_shard_altered_on_its_way_is_refused(shares: list[Path], tmp_path: Path) -> None:
    copies = [Path(shutil.copytree(share, tmp_path / share.name)) for share in shares]
    shard = next(path for copy in copies for path in copy.rglob("*.npy"))
    with shard.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x00")
        stream.seek(-2, os.SEEK_END)
        stream.write(b"\x01")
    with pytest.raises(DataError, match="SHA-256"):
        join_stores(copies, tmp_path / "out")


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "a/b", "-1/2", ""])
def test_other_shards_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="1/4"):
        parse_shard(text)
