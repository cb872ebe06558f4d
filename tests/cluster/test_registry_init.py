"""The registry-init Job against a real MinIO and a real API server: its commands, its rights, its keys."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import pytest

from tests.cluster.kubelet import Pod
from tests.cluster.release import Release
from tests.minio_server import ROOT_SECRET, ROOT_USER, MinIO

pytestmark = pytest.mark.timeout(300)

_KEY = "registry/models/faces/versions/v0001-1a2b3c4d/manifest.json"
_KEYS = {"RAMPART_KEYS": "/keys", "RAMPART_ACCOUNT": "/var/run/secrets/kubernetes.io/serviceaccount"}
# not `rampart registry list`, which loads torch
_SCRIPT = """\
import os
from dfcore.storage import open_store
print([*open_store(os.environ["RAMPART_REGISTRY"]).list()])
"""
Client = Any


class Site:
    """A release whose store is the real MinIO."""

    def __init__(self, release: Release, minio: MinIO, folder: Path) -> None:
        self.release, self.minio, self.folder = release, minio, folder
        # a store of its own for each test: their MinIO is one
        self.bucket = f"models-{release.namespace}"
        self.data = f"data-{release.namespace}"
        self.values = (
            f"store.endpoint={minio.url}", f"store.uri=s3://{self.bucket}/registry", "minio.enabled=false",
            f'registryInit.dataBuckets=["{self.data}"]',
        )  # fmt: skip
        self.pods = 0
        self.clients: list[Client] = []

    def pod(self, spec: dict[str, Any] | None = None) -> Pod:
        """Return a new pod of the Job that is there, or of another template; its volumes are filled."""
        if spec is None:
            (job,) = self.release.list("jobs")
            spec = job["spec"]["template"]["spec"]
        self.pods += 1
        pod = Pod(self.release.plane, self.release.namespace, spec, self.folder / f"pod-{self.pods}")
        pod.mount()
        return pod

    def run_job(self) -> str:
        """Run both containers of the Job; return what the second says, good or bad."""
        pod = self.pod()
        first = pod.run("provision")
        assert first.returncode == 0, first.stderr
        second = pod.run("store-keys", environment=_KEYS)
        for said in (first.stdout, first.stderr, second.stdout, second.stderr):
            assert ROOT_SECRET not in said
        return second.stdout + second.stderr

    def secret(self, name: str) -> dict[str, str]:
        """Return a Secret's values."""
        data = self.release.get("secret", name)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def client(self, role: str | None = None) -> Client:
        """Return a client with a role's keys as the Secret has them, or with the administrator's."""
        keys = {"AWS_ACCESS_KEY_ID": ROOT_USER, "AWS_SECRET_ACCESS_KEY": ROOT_SECRET}
        if role is not None:
            keys = self.secret(f"rampart-{role}")
            assert keys["AWS_ENDPOINT_URL"] == self.minio.url
        found = boto3.session.Session().client(
            "s3", endpoint_url=self.minio.url, region_name="us-east-1",
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"], aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            config=botocore.config.Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )  # fmt: skip
        self.clients.append(found)
        return found


@pytest.fixture
def site(release: Release, minio: MinIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    found = Site(release, minio, tmp_path)
    admin = {"AWS_ACCESS_KEY_ID": ROOT_USER, "AWS_SECRET_ACCESS_KEY": ROOT_SECRET}
    release.prepare("evaluation")
    for name in ("rampart-reader", "minio-admin"):  # the Job makes the one, and reads the other
        release.plane.kubectl("-n", release.namespace, "delete", "secret", name)
    release.plane.apply({
        "apiVersion": "v1", "kind": "Secret", "stringData": admin,
        "metadata": {"name": "minio-admin", "namespace": release.namespace},
    })  # fmt: skip
    done = release.make("install", "evaluation", *found.values)
    assert done.returncode == 0, done.stderr
    release.settle()
    yield found
    for one in found.clients:
        one.close()


def _denied(action: Callable[[], Any]) -> None:
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        action()
    assert caught.value.response["Error"]["Code"] in {"AccessDenied", "403"}, caught.value


def test_the_keys_are_as_narrow_as_the_table_says(site: Site) -> None:
    said = site.run_job()
    assert said == (
        "reader: keys are in the Secret rampart-reader\nwriter: keys are in the Secret rampart-writer\n"
    )
    admin, writer, reader = site.client(), site.client("writer"), site.client("reader")
    bucket, data = site.bucket, site.data
    assert admin.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    _writer_may(writer, bucket, data)
    _writer_may_not(writer, admin, bucket, data)
    for may in (
        lambda: reader.list_objects_v2(Bucket=bucket),
        lambda: reader.get_bucket_location(Bucket=bucket),
        lambda: reader.get_object(Bucket=bucket, Key=_KEY)["Body"].read(),
    ):
        may()
    _reader_may_not(reader, admin, bucket, data)
    # what was overwritten is still there
    versions = admin.list_object_versions(Bucket=bucket, Prefix=_KEY)["Versions"]
    contents = {
        admin.get_object(Bucket=bucket, Key=_KEY, VersionId=item["VersionId"])["Body"].read()
        for item in versions
    }
    assert contents == {b"first", b"second"}


def _writer_may(writer: Client, bucket: str, data: str) -> None:
    writer.put_object(Bucket=bucket, Key=_KEY, Body=b"first", IfNoneMatch="*")
    writer.put_object(Bucket=bucket, Key=_KEY, Body=b"second")
    assert writer.get_object(Bucket=bucket, Key=_KEY)["Body"].read() == b"second"
    assert writer.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    upload = {"Bucket": bucket, "Key": "registry/large"}
    upload["UploadId"] = writer.create_multipart_upload(**upload)["UploadId"]
    writer.upload_part(**upload, PartNumber=1, Body=b"x")
    assert len(writer.list_parts(**upload)["Parts"]) == 1
    writer.list_multipart_uploads(Bucket=bucket)
    writer.abort_multipart_upload(**upload)
    writer.put_object(Bucket=data, Key="crops/1", Body=b"x")
    writer.delete_object(Bucket=data, Key="crops/1")


def _writer_may_not(writer: Client, admin: Client, bucket: str, data: str) -> None:
    first = admin.list_object_versions(Bucket=bucket, Prefix=_KEY)["Versions"][-1]["VersionId"]
    refused = writer.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": _KEY}]})
    assert [item["Code"] for item in refused["Errors"]] == ["AccessDenied"]
    for action in (
        lambda: writer.delete_object(Bucket=bucket, Key=_KEY),
        lambda: writer.delete_object(Bucket=bucket, Key=_KEY, VersionId=first),
        lambda: writer.put_object(Bucket=bucket, Key="elsewhere/x", Body=b"x"),
        lambda: writer.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}),
        lambda: writer.put_bucket_policy(Bucket=bucket, Policy="{}"),
        lambda: writer.delete_bucket_lifecycle(Bucket=bucket),
        lambda: writer.delete_bucket(Bucket=data),
        lambda: writer.create_bucket(Bucket=f"{bucket}-more"),
        lambda: writer.list_objects_v2(Bucket="another-bucket"),
    ):
        _denied(action)


def _reader_may_not(reader: Client, admin: Client, bucket: str, data: str) -> None:
    admin.put_object(Bucket=bucket, Key="elsewhere/x", Body=b"x")
    admin.put_object(Bucket=data, Key="crops/2", Body=b"x")
    for action in (
        lambda: reader.put_object(Bucket=bucket, Key=_KEY, Body=b"x"),
        lambda: reader.delete_object(Bucket=bucket, Key=_KEY),
        lambda: reader.create_multipart_upload(Bucket=bucket, Key=_KEY),
        lambda: reader.get_object(Bucket=bucket, Key="elsewhere/x"),
        lambda: reader.list_objects_v2(Bucket=data),
        lambda: reader.get_object(Bucket=data, Key="crops/2"),
        lambda: reader.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}),
        lambda: reader.create_bucket(Bucket=f"{bucket}-more"),
    ):
        _denied(action)


def test_it_runs_again_and_rotates(site: Site) -> None:
    release = site.release
    site.run_job()
    before = site.secret("rampart-writer")
    assert site.run_job() == ""
    assert site.secret("rampart-writer") == before
    release.plane.kubectl("-n", release.namespace, "delete", "secret", "rampart-writer")
    said = site.pod().run("store-keys", environment=_KEYS).stderr
    assert "expected the Secret rampart-writer of the writer, who kept the keys" in said

    old = site.client("reader")
    (job,) = release.list("jobs")
    release.upgrade("evaluation", *site.values, "registryInit.rotate=true")
    (new,) = release.list("jobs")  # Kubernetes changes no Job: it is another
    assert new["metadata"]["name"] != job["metadata"]["name"]
    assert "writer: keys are in the Secret rampart-writer" in site.run_job()
    assert site.secret("rampart-writer") != before
    with pytest.raises(botocore.exceptions.ClientError, match="SignatureDoesNotMatch"):
        old.list_objects_v2(Bucket=site.bucket)

    # the exporter's pod, as it was admitted, reads with what was stored
    template = release.get("deployment", "rampart-exporter")["spec"]["template"]["spec"]
    done = site.pod(template).run("exporter", "python", "-c", _SCRIPT)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_its_rights_go_with_it_and_the_keys_stay(site: Site) -> None:
    release = site.release
    pod = site.pod()
    for role in ("reader", "writer"):
        (pod.folder / "keys" / f"{role}.env").write_text(f"AWS_ACCESS_KEY_ID={role}\n", encoding="utf-8")
    release.plane.kubectl("-n", release.namespace, "delete", "rolebinding", "rampart-registry-init")
    said = pod.run("store-keys", environment=_KEYS)
    assert said.returncode == 1
    assert f"expected POST {release.namespace}/secrets to be allowed, got HTTP 403" in said.stderr

    release.upgrade("evaluation", *site.values)  # Helm makes it again
    assert pod.run("store-keys", environment=_KEYS).returncode == 0
    release.upgrade("evaluation", *site.values, "registryInit.enabled=false")
    for kind in ("jobs", "roles", "rolebindings"):
        assert release.list(kind) == []
    release.uninstall()
    assert site.secret("rampart-reader") == {"AWS_ACCESS_KEY_ID": "reader"}
    assert site.secret("rampart-writer") == {"AWS_ACCESS_KEY_ID": "writer"}
