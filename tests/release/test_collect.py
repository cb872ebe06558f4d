from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dfcore.errors import ConfigError
from dfcore.release import Garbage, Registry
from dfcore.release.audit import append_event, new_event
from dfcore.storage import FileStore, ObjectStore
from rampart import app
from tests.release.conftest import on_every_store

DAY = timedelta(days=1)


@pytest.fixture
def published(registry: Registry, bundle: Path, public_key: Path) -> str:
    version = registry.publish("faces", bundle, public_key=public_key)
    registry.promote("faces", version, "stable", "ann", "go")
    return version


@pytest.fixture
def later(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two days from now."""
    now = datetime.now(UTC) + 2 * DAY
    monkeypatch.setattr(type(registry.store), "now", lambda _: now)


def _half(registry: Registry, version: str = "v0099-00000000") -> str:
    prefix = f"models/faces/versions/{version}"
    registry.store.put(f"{prefix}/weights.safetensors", b"half")
    registry.store.put(f"{prefix}/deep/x", b"x")
    return prefix


@on_every_store
@pytest.mark.usefixtures("later")
def test_only_what_nobody_names_goes(registry: Registry, published: str) -> None:
    prefix = _half(registry)
    registry.store.put("stores/precious", b"crops")
    before = set(registry.store.list())
    told = registry.collect(DAY, dry_run=True)
    assert [(item.kind, item.what, item.bytes) for item in told] == [("version", prefix, 5)]
    assert set(registry.store.list()) == before
    assert registry.collect(DAY) == told
    assert set(registry.store.list()) == {key for key in before if not key.startswith(prefix)}
    assert registry.verify("faces", published).is_dir()
    assert registry.collect(DAY) == ()


def test_what_is_young_stays(registry: Registry, published: str) -> None:
    _half(registry)
    assert registry.collect(DAY) == ()
    with pytest.raises(ConfigError, match="expected an age of at least 0:10:00, got 0:01:00"):
        registry.collect(timedelta(minutes=1))


@pytest.mark.usefixtures("later")
def test_what_the_log_or_a_channel_names_stays_even_if_it_is_damaged(
    registry: Registry, published: str
) -> None:
    registry.store.delete(f"models/faces/versions/{published}/manifest.json")
    named = _half(registry, "v0007-11111111")
    append_event(
        registry.store, "faces", new_event("promote", "v0008-x", "a", "b", previous="v0007-11111111")
    )
    assert registry.collect(DAY) == ()
    assert registry.store.list(named)


@pytest.mark.usefixtures("later")
def test_a_whole_version_that_the_log_does_not_know_goes(registry: Registry, published: str) -> None:
    for key in registry.store.list(f"models/faces/versions/{published}/"):
        registry.store.put(key.replace(published, "v0050-aaaaaaaa"), registry.store.get(key))
    (gone,) = registry.collect(DAY, name="faces")
    assert gone.what == "models/faces/versions/v0050-aaaaaaaa"
    assert [item.version for item in registry.list()["faces"]] == [published]


@pytest.mark.usefixtures("later")
def test_who_names_a_version_at_the_last_moment_keeps_it(
    registry: Registry, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in registry.store.list(f"models/faces/versions/{published}/"):
        registry.store.put(key.replace(published, "v0050-aaaaaaaa"), registry.store.get(key))
    delete = type(registry.store).delete

    def somebody_logs_it(store: ObjectStore, key: str) -> None:
        delete(store, key)
        if key.endswith("v0050-aaaaaaaa/manifest.json"):
            append_event(store, "faces", new_event("publish", "v0050-aaaaaaaa", "bob", "late"))

    monkeypatch.setattr(type(registry.store), "delete", somebody_logs_it)
    assert registry.collect(DAY) == ()
    assert {item.version for item in registry.list()["faces"]} == {published, "v0050-aaaaaaaa"}


def test_unfinished_multipart_uploads_go(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    registry = Registry(f"{s3_server}/reg")
    client = boto3.session.Session().client("s3")
    key = "reg/models/faces/versions/v0001-x/weights"
    client.create_multipart_upload(Bucket="rampart-test", Key=key)
    (left,) = registry.store.unfinished()  # moto says that every upload was begun in 2010
    with monkeypatch.context() as patch:
        patch.setattr(type(registry.store), "now", lambda _: left.started + DAY / 2)
        assert registry.collect(DAY) == ()
    assert [(item.kind, item.what) for item in registry.collect(DAY)] == [
        ("upload", "models/faces/versions/v0001-x/weights")
    ]
    assert list(registry.store.unfinished()) == []
    client.close()


def test_what_a_killed_writer_left_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    left = tmp_path / "models/faces/versions/v/.rampart-left"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert registry.collect(DAY) == ()
    now = datetime.now(UTC) + 2 * DAY
    monkeypatch.setattr(FileStore, "now", lambda _: now)
    assert [item.kind for item in registry.collect(DAY)] == ["upload"]
    assert not left.exists()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _half(Registry(tmp_path))
    now = datetime.now(UTC) + 2 * DAY
    monkeypatch.setattr(FileStore, "now", lambda _: now)
    run = CliRunner()
    command = ["registry", "collect", "--store", str(tmp_path)]
    told = run.invoke(app, [*command, "--dry-run"])
    assert "would remove 1\nversion models/faces/versions/v0099-00000000, 5 bytes" in told.stdout
    done = run.invoke(app, [*command, "--older-than", "1d", "--json"])
    assert [Garbage.parse(item).bytes for item in json.loads(done.stdout)] == [5]
    wrong = run.invoke(app, [*command, "--older-than", "soon"])
    assert isinstance(wrong.exception, ConfigError)
    assert "expected an age such as 90m" in str(wrong.exception)
