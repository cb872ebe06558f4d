from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dfcore.errors import BundleError, ConflictError, DataError, WorkFailed
from dfcore.models.bundle import fetch
from dfcore.release import Registry, ensure_key, sign_bundle
from dfcore.storage import FileStore
from rampart import app
from tests.release.conftest import make_bundle, on_every_store, on_s3_too


@on_every_store
def test_publish_promote_fetch_roll_back(
    registry: Registry, bundle: Path, second: Path, public_key: Path
) -> None:
    one = registry.publish("faces", bundle, public_key=public_key, who="ci", why="first")
    two = registry.publish("faces", second, public_key=public_key)
    assert one.startswith("v0001-")
    assert two.startswith("v0002-")
    assert registry.publish("faces", bundle, public_key=public_key) == one
    registry.promote("faces", one, "stable", "ann", "first release")
    registry.promote("faces", two, "stable", "bob", "better")
    registry.promote("faces", two, "stable", "bob", "pressed twice")
    assert (fetch("registry://faces@stable") / "reference.json").read_bytes() == (
        second / "reference.json"
    ).read_bytes()
    assert [(item.version, item.channels) for item in registry.list()["faces"]] == [
        (one, ()),
        (two, ("stable",)),
    ]
    assert registry.rollback("faces", "stable", "ann", "alarm") == one
    assert registry.channels("faces") == {"stable": one}
    fetched = fetch("registry://faces@stable")
    assert (fetched / "weights.safetensors").read_bytes() == (bundle / "weights.safetensors").read_bytes()
    assert fetch(f"registry://faces@{one}") == fetched
    with pytest.raises(DataError, match="expected an earlier version"):
        registry.rollback("faces", "stable", "ann", "again")
    log = registry.log("faces")
    assert [(event.action, event.version, event.previous, event.who) for event in log] == [
        ("publish", one, None, "ci"), ("publish", two, None, "unknown"), ("promote", one, None, "ann"),
        ("promote", two, one, "bob"), ("promote", two, two, "bob"), ("rollback", one, two, "ann"),
    ]  # fmt: skip
    assert [event.sequence for event in log] == [1, 2, 3, 4, 5, 6]
    assert all(event.evidence_digest for event in log)


@on_s3_too
def test_show_names_address_files_and_decision(registry: Registry, bundle: Path, public_key: Path) -> None:
    version = registry.publish("faces", bundle, public_key=public_key)
    registry.promote("faces", version, "stable", "ann", "go")
    shown = registry.show("faces", "stable")
    assert shown["version"] == version
    assert shown["uri"] == f"{registry.uri}/models/faces/versions/{version}"
    assert shown["channels"] == ["stable"]
    assert shown["decision"]["promoted"] is True
    assert fetch(shown["uri"]).is_dir()
    assert registry.verify("faces", "stable").is_dir()


@on_s3_too
def test_what_is_not_there_is_named(registry: Registry) -> None:
    with pytest.raises(DataError, match="expected channel 'stable' of 'faces'"):
        registry.verify("faces", "stable")
    with pytest.raises(DataError, match="expected version 'v0009-00000000'"):
        registry.promote("faces", "v0009-00000000", "stable", "ann", "x")
    with pytest.raises(DataError, match="expected channel 'stable' of 'faces'"):
        registry.rollback("faces", "stable", "ann", "x")
    assert registry.list() == {}


@on_s3_too
def test_a_channel_is_no_version(registry: Registry, bundle: Path, public_key: Path) -> None:
    version = registry.publish("faces", bundle, public_key=public_key)
    registry.promote("faces", version, "canary", "ann", "try")
    with pytest.raises(DataError, match="expected a version, got the channel 'canary'"):
        registry.promote("faces", "canary", "stable", "ann", "x")


@on_s3_too
def test_an_altered_bundle_is_not_published(registry: Registry, bundle: Path, public_key: Path) -> None:
    (bundle / "reference.json").write_text("{}")
    with pytest.raises(BundleError, match=r"reference\.json"):
        registry.publish("faces", bundle, public_key=public_key)
    assert registry.store.list() == []


@on_s3_too
def test_another_key_does_not_get_in(
    registry: Registry, bundle: Path, second: Path, public_key: Path, tmp_path: Path
) -> None:
    registry.publish("faces", bundle, public_key=public_key)
    mine = ensure_key(tmp_path / "mine.key")
    sign_bundle(second, tmp_path / "mine.key")
    with pytest.raises(BundleError, match="trusts another signer"):
        registry.publish("faces", second, public_key=mine)


@on_s3_too
def test_a_version_altered_in_the_store_is_not_promoted(
    registry: Registry, bundle: Path, public_key: Path
) -> None:
    version = registry.publish("faces", bundle, public_key=public_key)
    registry.store.put(f"models/faces/versions/{version}/weights.safetensors", b"evil")
    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        registry.promote("faces", version, "stable", "ann", "x")
    assert registry.channels("faces") == {}


@on_s3_too
def test_a_half_published_version_is_never_seen(
    registry: Registry, bundle: Path, public_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = type(registry.store).upload_file

    def dies(store: FileStore, source: Path, key: str) -> None:
        if key.endswith("weights.safetensors"):
            raise WorkFailed("No space left on device")
        upload(store, source, key)

    with monkeypatch.context() as patch:
        patch.setattr(type(registry.store), "upload_file", dies)
        with pytest.raises(WorkFailed, match="No space left"):
            registry.publish("faces", bundle, public_key=public_key)
    assert registry.list("faces") == {"faces": ()}
    orphan = registry.store.list("models/faces/versions/")[0].split("/")[3]
    with pytest.raises(DataError, match="found none that is whole"):
        registry.promote("faces", orphan, "stable", "ann", "x")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        fetch(f"{registry.uri}/models/faces/versions/{orphan}")
    again = registry.publish("faces", bundle, public_key=public_key)
    assert again.startswith("v0002-")
    assert [item.version for item in registry.list()["faces"]] == [again]


def _race(count: int, attempt: Callable[[int], str | None]) -> list[str | None]:
    barrier = threading.Barrier(count)

    def run(number: int) -> str | None:
        barrier.wait()
        return attempt(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@on_s3_too
def test_concurrent_publishers_never_share_a_number(
    registry: Registry, tmp_path: Path, parts: Path, public_key: Path
) -> None:
    bundles = [make_bundle(tmp_path / str(number), parts, note=str(number)) for number in range(3)]
    got = _race(3, lambda number: registry.publish("faces", bundles[number], public_key=public_key))
    assert sorted(str(version)[:5] for version in got) == ["v0001", "v0002", "v0003"]
    assert [event.sequence for event in registry.log("faces")] == [1, 2, 3]


@on_every_store
def test_of_concurrent_promotions_one_wins(
    registry: Registry, bundle: Path, public_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.publish("faces", bundle, public_key=public_key)
    registry.promote("faces", version, "stable", "ann", "first")
    together = threading.Barrier(4)
    verify = registry.verify

    def verify_then_meet(name: str, target: str, *, cache: Path) -> Path:
        folder = verify(name, target, cache=cache)
        together.wait()  # everybody has read the pointer, nobody has moved it
        return folder

    monkeypatch.setattr(registry, "verify", verify_then_meet)

    def attempt(number: int) -> str | None:
        try:
            registry.promote("faces", version, "stable", str(number), "race")
        except ConflictError:
            return None
        return str(number)

    winners = [name for name in _race(4, attempt) if name]
    assert len(winners) == 1
    assert [event.who for event in registry.log("faces")] == ["unknown", "ann", winners[0]]


@on_s3_too
def test_a_pointer_to_another_manifest_is_refused(
    registry: Registry, bundle: Path, second: Path, public_key: Path
) -> None:
    version = registry.publish("faces", bundle, public_key=public_key)
    registry.promote("faces", version, "stable", "ann", "go")
    prefix = f"models/faces/versions/{version}"
    for path in second.iterdir():  # a whole, well signed bundle, but not the one that was promoted
        registry.store.put(f"{prefix}/{path.name}", path.read_bytes())
    with pytest.raises(BundleError, match="not the one that was promoted"):
        fetch("registry://faces@stable")


@on_s3_too
def test_a_damaged_cache_is_fetched_again(registry: Registry, bundle: Path, public_key: Path) -> None:
    if isinstance(registry.store, FileStore):
        return  # nothing is copied: the store's own folder is verified on each use
    version = registry.publish("faces", bundle, public_key=public_key)
    folder = fetch(f"registry://faces@{version}")
    (folder / "weights.safetensors").write_bytes(b"damaged")
    assert fetch(f"registry://faces@{version}") == folder
    assert (folder / "weights.safetensors").read_bytes() == (bundle / "weights.safetensors").read_bytes()
    shutil.rmtree(folder)
    assert fetch(f"registry://faces@{version}").is_dir()


@on_s3_too
def test_a_whole_copy_does_not_hide_a_damaged_store(
    registry: Registry, bundle: Path, public_key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    version = registry.publish("faces", bundle, public_key=public_key)
    registry.promote("faces", version, "stable", "ann", "go")
    assert registry.verify("faces", version).is_dir()  # keeps a copy
    command = ["registry", "verify", "faces", "stable", "--store", registry.uri]
    assert CliRunner().invoke(app, command).exit_code == 0
    registry.store.put(f"models/faces/versions/{version}/weights.safetensors", b"rotten")
    found = CliRunner().invoke(app, command)
    assert isinstance(found.exception, BundleError)
    assert "weights.safetensors" in str(found.exception)
    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        registry.promote("faces", version, "canary", "ann", "go")
    assert not any(scratch.iterdir())


def test_moving_a_channel_loads_no_torch() -> None:
    code = (
        "import sys; from dfcore.release import Registry, ensure_key, provision_minio, sign_bundle; "
        "sys.exit(','.join({'torch', 'timm', 'pandas'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
