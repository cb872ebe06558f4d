"""A real MinIO process for tests, where `tests/cluster/minio.sh` has built one."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from rampart.server_process import free_port

ROOT_USER, ROOT_SECRET = "rampart-admin", "s3cret-of-the-admin"


class MinIO(NamedTuple):
    """A running server."""

    url: str
    environment: dict[str, str]


def find_minio() -> str:
    """Return the program; skip the test by name where there is none."""
    home = Path(os.environ.get("RAMPART_CLUSTER", "~/.cache/rampart-cluster")).expanduser()
    found = shutil.which("minio") or shutil.which("minio", path=str(home / "bin"))
    if found is None:
        pytest.skip("real MinIO: not built; run tests/cluster/minio.sh (needs Go, 3 minutes)")
    return found


@contextmanager
def run_minio(folder: Path) -> Iterator[MinIO]:
    """Run one on a free port of the loopback interface."""
    program = find_minio()
    port = free_port()
    environment = {
        **os.environ, "MINIO_ROOT_USER": ROOT_USER, "MINIO_ROOT_PASSWORD": ROOT_SECRET, "MINIO_CI_CD": "1",
        "MINIO_BROWSER": "off", "MINIO_UPDATE": "off",
    }  # fmt: skip
    command = [program, "server", "--quiet", "--address", f"127.0.0.1:{port}", str(folder / "data")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{url}/minio/health/ready", process, folder / "log")
        yield MinIO(url, {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": ROOT_USER, "AWS_SECRET_ACCESS_KEY": ROOT_SECRET,
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        })  # fmt: skip
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  # our own loopback server
                return
        except (urllib.error.HTTPError, OSError):
            time.sleep(0.1)
    pytest.fail(f"MinIO did not start: {log.read_text()}")
