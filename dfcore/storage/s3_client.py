"""The S3 client from the usual environment, AWS's files, or a mounted secret.

Address AWS_ENDPOINT_URL, region AWS_REGION, authority AWS_CA_BUNDLE, tries AWS_MAX_ATTEMPTS and
AWS_RETRY_MODE; keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a shared credentials file, a pod's role,
or a folder RAMPART_S3_SECRETS with a file for each; RAMPART_S3_ADDRESSING is path (default), virtual or auto.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dfcore.errors import ConfigError
from dfcore.storage.s3_errors import CREDENTIALS, explain, shown

__all__ = ["administrator", "make_client"]

_TRIES = 5
_STYLES = ("path", "virtual", "auto")
# File names in a mounted Secret: the environment's names, or those of Kubeflow's own secret.
_KEY_FILES = (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("accesskey", "secretkey"))


def make_client(bucket: str) -> Any:
    """Make a boto3 S3 client; nothing is sent yet.

    Raises:
        ConfigError: a setting that can't be used.
    """
    import boto3  # half a second of import that a file store does not need
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    try:
        core = botocore.session.get_session()
        region = os.environ.get("AWS_REGION") or core.get_config_variable("region") or "us-east-1"
        retries = {
            "mode": core.get_config_variable("retry_mode") or "standard",
            "total_max_attempts": core.get_config_variable("max_attempts") or _TRIES,
        }
        settings = Config(
            retries=retries, connect_timeout=10, read_timeout=60, s3={"addressing_style": _style(core)}
        )
        session = boto3.session.Session(botocore_session=core)
        return session.client("s3", region_name=region, config=settings, **_mounted_keys())
    except BotoCoreError as error:
        raise explain(error, f"s3://{bucket}", _endpoint()) from error
    except ConfigError:
        raise
    except ValueError as error:  # botocore's own for an endpoint that is no address
        raise ConfigError(
            f"expected AWS_ENDPOINT_URL such as https://minio.example:9000, got {_endpoint()!r}"
        ) from error


def administrator() -> tuple[str, str, str | None]:
    """Return access key, secret and session token from the same places as the client's.

    Raises:
        ConfigError: there are none.
    """
    import botocore.session
    from botocore.exceptions import BotoCoreError

    mounted = _mounted_keys()
    if mounted:
        return (
            mounted["aws_access_key_id"], mounted["aws_secret_access_key"], mounted.get("aws_session_token")
        )  # fmt: skip
    try:
        found = botocore.session.get_session().get_credentials()
    except BotoCoreError as error:
        raise explain(error, "the server", _endpoint()) from error
    if found is None:
        raise ConfigError(f"expected the administrator's credentials, found none; {CREDENTIALS}")
    frozen = found.get_frozen_credentials()
    return frozen.access_key, frozen.secret_key, frozen.token


def _endpoint() -> str:
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return shown(named) if named else "AWS"


def _style(core: Any) -> str:
    configured = (core.get_scoped_config().get("s3") or {}).get("addressing_style")
    style = str(os.environ.get("RAMPART_S3_ADDRESSING") or configured or "path")
    if style not in _STYLES:
        raise ConfigError(f"expected RAMPART_S3_ADDRESSING of {', '.join(_STYLES)}, got {style!r}")
    return style


def _mounted_keys() -> dict[str, str]:
    folder = os.environ.get("RAMPART_S3_SECRETS")
    if not folder:
        return {}
    for key, secret in _KEY_FILES:
        if (Path(folder) / key).is_file() and (Path(folder) / secret).is_file():
            keys = {"aws_access_key_id": key, "aws_secret_access_key": secret}
            if (Path(folder) / "AWS_SESSION_TOKEN").is_file():
                keys["aws_session_token"] = "AWS_SESSION_TOKEN"  # noqa: S105  # the file's name
            return {name: (Path(folder) / file).read_text("utf-8").strip() for name, file in keys.items()}
    raise ConfigError(
        f"expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in {folder}, found none; {CREDENTIALS}"
    )
