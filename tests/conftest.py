"""Fixtures that several folders share."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from rampart.server_process import free_port
from tests.minio_server import MinIO, run_minio

_BUCKET = "rampart-test"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where RAMPART_NO_SKIPS is set, everything is installed but a GPU: any other skip is a failure."""
    report = yield
    unexpected = (
        report.skipped
        and not hasattr(report, "wasxfail")
        and not any(word in str(report.longrepr) for word in ("CUDA", "a GPU"))
    )
    if unexpected and os.environ.get("RAMPART_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped where everything should be installed: {report.longrepr}"
    return report


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the S3 server stopped: {log.read_text()}")
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  # our own loopback server
                return
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the S3 server did not answer within 60 s: {log.read_text()}")


@pytest.fixture(scope="session")
def _s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, log = free_port(), tmp_path_factory.mktemp("s3") / "log"
    command = [sys.executable, str(Path(__file__).with_name("s3_process.py")), str(port)]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        _wait(f"{endpoint}/moto-api/data.json", process, log)
        yield endpoint
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def s3_server(_s3_process: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real S3 server process with an empty bucket; yields s3://BUCKET and sets the AWS_* variables."""
    settings = {
        "AWS_ENDPOINT_URL": _s3_process, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    yield from _bucket()


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinIO]:
    """A real MinIO process; tests are skipped by name where none was built."""
    with run_minio(tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture
def minio_server(minio: MinIO, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same as `s3_server`, on a real MinIO with the administrator's keys."""
    for name, value in minio.environment.items():
        monkeypatch.setenv(name, value)
    yield from _bucket()


def _bucket() -> Iterator[str]:
    import boto3

    client = boto3.session.Session().client("s3")
    client.create_bucket(Bucket=_BUCKET)
    yield f"s3://{_BUCKET}"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=_BUCKET)
    for key in [item["Key"] for page in pages for item in page.get("Contents", ())]:
        client.delete_object(Bucket=_BUCKET, Key=key)
    client.delete_bucket(Bucket=_BUCKET)
    client.close()
