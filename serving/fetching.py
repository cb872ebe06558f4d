"""Files that a request names by address: only below the allow-list, and never more than the limit."""

from __future__ import annotations

import logging
from contextlib import closing
from functools import lru_cache

from dfcore.errors import ConfigError, DataError, RampartError
from dfcore.storage import FileStore, S3Store, open_store
from dfcore.storage.base import check_key
from dfcore.storage.s3_errors import translated
from serving.rejection import RejectedInput

__all__ = ["fetch_allowed"]

logger = logging.getLogger(__name__)

_SHOWN = 80
_STORES = 64
_open = lru_cache(maxsize=_STORES)(open_store)  # a client for each prefix, not for each request


def fetch_allowed(uri: object, where: str, allowed: tuple[str, ...], max_bytes: int) -> bytes:
    """Return the bytes of a file whose address lies below an allowed prefix.

    Args:
        uri: what the request named.
        where: its place in the request, for the message.
        allowed: prefixes, each ending in "/".
        max_bytes: more is refused before it is read.

    Raises:
        RejectedInput: another address, a path that climbs out, no such file, or a larger one.
    """
    prefix = next((item for item in allowed if isinstance(uri, str) and uri.startswith(item)), None)
    if prefix is None or not isinstance(uri, str):
        raise RejectedInput(
            "uri", f"expected an allowed uri (allowed_prefixes) in {where}, got {str(uri)[:_SHOWN]!r}"
        )
    try:
        key = check_key(uri.removeprefix(prefix))
        if not key.isprintable():
            raise ConfigError("expected a name that can be read")
    except ConfigError as error:
        shown = repr(uri[:_SHOWN])
        raise RejectedInput("uri", f"expected a plain allowed uri in {where}, got {shown}") from error
    try:
        data = _read(_open(prefix), key, max_bytes)
    except DataError as error:
        raise RejectedInput("uri", f"expected a file at {where}.uri, found none") from error
    except (OSError, RampartError) as error:
        logger.warning("%s.uri can't be read: %s", where, error)
        raise RejectedInput("uri", f"expected a file at {where}.uri, its store does not give it") from error
    if len(data) > max_bytes:
        raise RejectedInput("too_large", f"expected at most max_bytes={max_bytes} at {where}.uri, got more")
    return data


def _read(store: FileStore | S3Store, key: str, max_bytes: int) -> bytes:
    if isinstance(store, FileStore):
        path = store.path(key).resolve()
        if not path.is_relative_to(store.root.resolve()) or not path.is_file():  # a link out of the folder
            raise DataError(f"expected a file at {store.uri}/{key}, found none")
        with path.open("rb") as stream:
            return stream.read(max_bytes + 1)
    # the store's own client: `store.get` takes what there is into memory, however large
    with translated(store.uri, key, store.endpoint):
        answer = store._client.get_object(Bucket=store.bucket, Key=store.prefix + key)
        with closing(answer["Body"]) as body:
            return bytes(body.read(max_bytes + 1))
