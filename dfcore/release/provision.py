"""Prepare a MinIO for a registry: buckets, versioning, lifecycle, and a user each for pipelines and serving.

Every step can be repeated. The administrator's keys come from where the store's keys come from.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dfcore.config import Config
from dfcore.errors import ConfigError, WorkFailed
from dfcore.storage import open_store, write_atomic
from dfcore.storage.s3 import S3Store
from dfcore.storage.s3_client import administrator

__all__ = ["Provisioned", "User", "provision_minio"]

_FORMER_VERSIONS_DAYS = 90
_UNFINISHED_DAYS = 2
_READ = ["s3:GetObject"]
_WRITE = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
_SEE = ["s3:ListBucket", "s3:GetBucketLocation"]
_SEE_UPLOADS = [*_SEE, "s3:ListBucketMultipartUploads"]


class User(Config):
    """A user of the store.

    Attributes:
        name: also its access key.
        keys: the file that its keys were written to; None where it existed and kept them.
    """

    name: str
    keys: Path | None


class Provisioned(Config):
    """What is there now."""

    endpoint: str
    buckets: tuple[str, ...]
    users: tuple[User, ...]


def provision_minio(store: str, keys: Path, data: Sequence[str] = (), *, rotate: bool = False) -> Provisioned:
    """Make or complete a registry's MinIO.

    Args:
        store: the registry's address, s3://BUCKET or s3://BUCKET/PREFIX.
        keys: folder for the files writer.env and reader.env, each of mode 0600.
        data: further buckets for pipelines: the writer may also remove what is in them.
        rotate: give existing users new keys.

    Returns:
        Buckets and users.

    Raises:
        ConfigError: no s3:// address, no MinIO, credentials that it does not know, or key files in the way.
        WorkFailed: the server does not answer, refuses, or keeps no conditions on writes.
    """
    opened = open_store(store)
    if not isinstance(opened, S3Store):
        raise ConfigError(f"expected s3://BUCKET/PREFIX to provision, got {store}; a folder needs nothing")
    with _translated(opened.endpoint):
        storage, admin = _clients(opened.endpoint)
        for bucket in (opened.bucket, *data):
            _ensure_bucket(storage, bucket, versioned=bucket == opened.bucket)
        policies = {"writer": _writer_policy(opened, data), "reader": _reader_policy(opened)}
        users = tuple(
            _ensure_user(
                admin, f"{opened.bucket}-{role}", policy, keys / f"{role}.env", opened.endpoint, rotate
            )
            for role, policy in policies.items()
        )
    opened.close()
    return Provisioned(endpoint=opened.endpoint, buckets=(opened.bucket, *data), users=users)


def _clients(endpoint: str) -> tuple[Any, Any]:
    try:
        import certifi
        import urllib3
        from minio import Minio, MinioAdmin
        from minio.credentials.providers import StaticProvider
    except ModuleNotFoundError as error:
        raise ConfigError("expected the package minio; install rampart[provision]") from error
    parts = urlsplit(endpoint)
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=10, read=60),
        retries=urllib3.Retry(total=3, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504)),
        ca_certs=os.environ.get("AWS_CA_BUNDLE") or certifi.where(),
    )
    provider = StaticProvider(*administrator())
    where: dict[str, Any] = {
        "endpoint": parts.netloc, "region": "us-east-1", "credentials": provider,
        "secure": parts.scheme == "https", "http_client": pool,
    }  # fmt: skip
    return Minio(**where), MinioAdmin(**where)


def _ensure_bucket(client: Any, bucket: str, *, versioned: bool) -> None:
    from minio.commonconfig import ENABLED, Filter
    from minio.lifecycleconfig import (
        AbortIncompleteMultipartUpload,
        LifecycleConfig,
        NoncurrentVersionExpiration,
        Rule,
    )
    from minio.versioningconfig import VersioningConfig

    if not client.bucket_exists(bucket):
        client.make_bucket(bucket)
    if versioned:
        client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    # MinIO frees unfinished uploads after a day by itself and drops that part of the rule; others keep it.
    rule = Rule(
        ENABLED,
        rule_filter=Filter(prefix=""),
        rule_id="rampart",
        abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(_UNFINISHED_DAYS),
        noncurrent_version_expiration=NoncurrentVersionExpiration(_FORMER_VERSIONS_DAYS),
    )
    client.set_bucket_lifecycle(bucket, LifecycleConfig([rule]))


def _reader_policy(store: S3Store) -> dict[str, Any]:
    return _policy(_allow(_SEE, store.bucket), _allow(_READ, f"{store.bucket}/{store.prefix}*"))


def _writer_policy(store: S3Store, data: Sequence[str]) -> dict[str, Any]:
    """Write, never remove: what was published stays, and the log only grows."""
    statements = [
        _allow(_SEE_UPLOADS, store.bucket), _allow(_WRITE, f"{store.bucket}/{store.prefix}*"),
    ]  # fmt: skip
    for bucket in data:
        statements += [_allow(_SEE_UPLOADS, bucket), _allow([*_WRITE, "s3:DeleteObject"], f"{bucket}/*")]
    return _policy(*statements)


def _policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(actions: Sequence[str], resource: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": [f"arn:aws:s3:::{resource}"]}


def _ensure_user(  # one call for each user
    admin: Any, name: str, policy: dict[str, Any], keys: Path, endpoint: str, rotate: bool
) -> User:
    admin.policy_add(name, policy=policy)
    exists = name in json.loads(admin.user_list())
    if not exists or rotate:
        _give_keys(admin, name, keys, endpoint, replace=rotate)
    admin.policy_set(name, user=name)
    return User(name=name, keys=None if exists and not rotate else keys)


def _give_keys(admin: Any, name: str, path: Path, endpoint: str, *, replace: bool) -> None:
    """Write the keys to a file before the server learns them, so that they are never lost."""
    if path.exists() and not replace:
        raise ConfigError(
            f"expected no {path}: it holds keys of another server or user; move it away, or choose another "
            "folder"
        )
    secret = secrets.token_urlsafe(30)
    lines = {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": secret,
    }  # fmt: skip
    before = path.read_bytes() if path.exists() else None
    write_atomic(path, "".join(f"{key}={value}\n" for key, value in lines.items()).encode(), mode=0o600)
    done = False
    try:
        admin.user_add(name, secret)
        done = True
    finally:
        if not done and before is None:
            path.unlink()
        elif not done and before is not None:
            write_atomic(path, before, mode=0o600)


@contextlib.contextmanager
def _translated(endpoint: str) -> Iterator[None]:
    """Turn the minio package's errors into ours; a body of an answer is never shown, only its code."""
    try:
        from minio.error import MinioAdminException, MinioException, S3Error
        from urllib3.exceptions import HTTPError
    except ModuleNotFoundError as error:
        raise ConfigError("expected the package minio; install rampart[provision]") from error
    try:
        yield
    except HTTPError as error:
        raise WorkFailed(
            f"expected an answer from {endpoint}, got {type(error).__name__}; "
            "check AWS_ENDPOINT_URL, AWS_CA_BUNDLE and that the server runs"
        ) from error
    except S3Error as error:
        raise _refused(endpoint, str(error.code)) from error
    except MinioAdminException as error:
        raise _refused(endpoint, _admin_code(error)) from error
    except MinioException as error:
        raise ConfigError(f"expected a MinIO at {endpoint}, got {type(error).__name__}") from error


def _admin_code(error: Any) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(error._body)["Code"])  # the package has no public name for it
    return f"HTTP {error._code}"


def _refused(endpoint: str, code: str) -> ConfigError:
    return ConfigError(
        f"expected a MinIO at {endpoint} that lets these keys administer it, got {code}; use the "
        "administrator's keys (for another server, make its users with the policies in docs/registry.md)"
    )
