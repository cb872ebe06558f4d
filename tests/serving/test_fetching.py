"""Addresses in a request: S3 and folders, only below the allow-list, only up to the limit."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from serving.fetching import _open, fetch_allowed
from serving.rejection import RejectedInput


def test_s3_below_the_prefix_only_and_up_to_the_limit(s3_server: str) -> None:
    bucket = s3_server.removeprefix("s3://")
    client = boto3.session.Session().client("s3")
    for key in ("inputs/face.png", "inputs/sub/b.png", "secret.png"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode() * 10)
    client.close()
    allowed = (f"{s3_server}/inputs/",)
    assert fetch_allowed(f"{s3_server}/inputs/face.png", "x", allowed, 1000) == b"inputs/face.png" * 10
    assert fetch_allowed(f"{s3_server}/inputs/sub/b.png", "x", allowed, 1000).startswith(b"inputs/sub")
    for uri in (f"{s3_server}/secret.png", f"{s3_server}/inputs/../secret.png", "s3://other/inputs/face.png"):
        with pytest.raises(RejectedInput, match="allowed uri"):
            fetch_allowed(uri, "x", allowed, 1000)
    with pytest.raises(RejectedInput, match="max_bytes=20") as failure:
        fetch_allowed(f"{s3_server}/inputs/face.png", "x", allowed, 20)
    assert failure.value.reason == "too_large"
    with pytest.raises(RejectedInput, match="found none"):
        fetch_allowed(f"{s3_server}/inputs/missing.png", "x", allowed, 20)
    # the operator's mistake, not the client's: no word of it in the answer
    with pytest.raises(RejectedInput, match="its store does not give it") as failure:
        fetch_allowed("s3://nowhere-at-all/a.png", "x", ("s3://nowhere-at-all/",), 20)
    assert "bucket" not in str(failure.value)
    for prefix in (*allowed, "s3://nowhere-at-all/"):
        _open(prefix).close()  # type: ignore[union-attr]
    _open.cache_clear()


def test_folder_links_do_not_lead_out(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_text("secret")
    (inside / "good").write_text("good")
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "fine").symlink_to(inside / "good")
    allowed = (f"file://{inside}/",)
    assert fetch_allowed(f"file://{inside}/fine", "x", allowed, 10) == b"good"
    with pytest.raises(RejectedInput, match="found none"):
        fetch_allowed(f"file://{inside}/link", "x", allowed, 10)
    with pytest.raises(RejectedInput, match=r"\(allowed_prefixes\)"):
        fetch_allowed(f"file://{inside}/good", "x", (), 10)
