"""A real MinIO is provisioned, and its users can do what they must and nothing else."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dfcore.errors import ConfigError, WorkFailed
from dfcore.release import Registry, provision_minio
from dfcore.storage import S3Store
from rampart import app
from tests.minio_server import ROOT_SECRET, MinIO


def _use(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    keys = dict(line.split("=", 1) for line in path.read_text().splitlines())
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    return keys


@pytest.fixture
def admin(minio: MinIO, monkeypatch: pytest.MonkeyPatch) -> MinIO:
    for name, value in minio.environment.items():
        monkeypatch.setenv(name, value)
    return minio


def test_users_may_do_their_work_and_nothing_else(
    admin: MinIO, tmp_path: Path, bundle: Path, public_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAMPART_CACHE", str(tmp_path / "cache"))
    found = provision_minio("s3://first/registry", tmp_path / "keys", ["first-data"])
    assert found.buckets == ("first", "first-data")
    assert [user.name for user in found.users] == ["first-writer", "first-reader"]
    for role in ("writer", "reader"):
        assert stat.S_IMODE((tmp_path / f"keys/{role}.env").stat().st_mode) == 0o600

    _use(tmp_path / "keys/writer.env", monkeypatch)
    registry = Registry("s3://first/registry")
    version = registry.publish("faces", bundle, public_key=public_key)
    registry.promote("faces", version, "production", "ci", "gate passed")
    registry.store.put("stores/x", b"x")
    for forbidden in (
        lambda: registry.store.delete(f"models/faces/versions/{version}/manifest.json"),
        lambda: registry.store.delete("models/faces/audit/00000001.json"),
        lambda: S3Store("first", "elsewhere").put("x", b"x"),
        lambda: S3Store("first-other").list(),
    ):
        with pytest.raises((WorkFailed, ConfigError), match="got AccessDenied"):
            forbidden()
    data = S3Store("first-data")
    data.put("crops/x", b"x")
    data.delete("crops/x")

    _use(tmp_path / "keys/reader.env", monkeypatch)
    reader = Registry("s3://first/registry")
    assert reader.verify("faces", "production").is_dir()
    assert reader.store.etag("models/none") is None
    assert [event.action for event in reader.log("faces")] == ["publish", "promote"]
    for forbidden in (
        lambda: reader.promote("faces", version, "production", "eve", "x"),
        lambda: reader.store.put("models/faces/channels/production.json", b"{}"),
        lambda: reader.store.delete("models/faces/channels/production.json"),
        lambda: S3Store("first-data").list(),
        lambda: provision_minio("s3://first/registry", tmp_path / "more"),
    ):
        with pytest.raises((WorkFailed, ConfigError), match="got AccessDenied"):
            forbidden()


def test_it_can_be_repeated(admin: MinIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    provision_minio("s3://second", tmp_path / "keys")
    before = (tmp_path / "keys/writer.env").read_bytes()
    again = provision_minio("s3://second", tmp_path / "other")
    assert [user.keys for user in again.users] == [None, None]
    assert not (tmp_path / "other").exists()
    client = boto3.session.Session().client("s3")
    assert client.get_bucket_versioning(Bucket="second")["Status"] == "Enabled"
    (rule,) = client.get_bucket_lifecycle_configuration(Bucket="second")["Rules"]
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 90}
    client.close()
    rotated = provision_minio("s3://second", tmp_path / "keys", rotate=True)
    assert [user.keys for user in rotated.users] == [
        tmp_path / f"keys/{role}.env" for role in ("writer", "reader")
    ]
    after = (tmp_path / "keys/writer.env").read_bytes()
    assert after != before
    _use(tmp_path / "keys/writer.env", monkeypatch)
    assert list(S3Store("second").list()) == []
    (tmp_path / "keys/writer.env").write_bytes(before)
    _use(tmp_path / "keys/writer.env", monkeypatch)
    with pytest.raises(ConfigError, match="got SignatureDoesNotMatch"):
        S3Store("second").list()


def test_keys_are_never_overwritten_or_lost(
    admin: MinIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "writer.env").write_text("precious")
    with pytest.raises(ConfigError, match=r"expected no .*writer\.env: it holds keys of another server"):
        provision_minio("s3://third", tmp_path)
    assert (tmp_path / "writer.env").read_text() == "precious"
    (tmp_path / "writer.env").unlink()
    provision_minio("s3://third", tmp_path)
    before = (tmp_path / "writer.env").read_bytes()

    def refuses(*_: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr("minio.MinioAdmin.user_add", refuses)
    with pytest.raises(ConnectionResetError):
        provision_minio("s3://third", tmp_path, rotate=True)
    with pytest.raises(ConnectionResetError):
        provision_minio("s3://fourth", tmp_path / "new")
    assert (tmp_path / "writer.env").read_bytes() == before
    assert list((tmp_path / "new").iterdir()) == []


def test_the_command_shows_no_key(admin: MinIO, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    command = [
        "registry",
        "init",
        "--store",
        "s3://fifth/reg",
        "--keys",
        str(tmp_path),
        "--data",
        "fifth-data",
    ]
    text = CliRunner().invoke(app, command)
    assert text.exit_code == 0, text.output
    assert f"user fifth-writer: keys in {tmp_path}/writer.env" in text.stdout
    again = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(again.stdout)["users"][0] == {"name": "fifth-writer", "keys": None}
    secret = (tmp_path / "writer.env").read_text().split("AWS_SECRET_ACCESS_KEY=")[1].strip()
    for shown in (text.output, again.output, caplog.text):
        assert secret not in shown
        assert ROOT_SECRET not in shown


def test_what_can_t_be_provisioned(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="a folder needs nothing"):
        provision_minio(str(tmp_path), tmp_path)
    with pytest.raises(ConfigError, match=r"expected a MinIO at http://127.0.0.1:.*docs/registry\.md"):
        provision_minio("s3://not-minio", tmp_path)  # moto has no such administration
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(WorkFailed, match=r"expected an answer from http://127.0.0.1:1, got MaxRetryError"):
        provision_minio("s3://nowhere", tmp_path)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="expected the administrator's credentials, found none"):
        provision_minio("s3://nowhere", tmp_path)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="expected credentials"):
        provision_minio("s3://nowhere", tmp_path)
