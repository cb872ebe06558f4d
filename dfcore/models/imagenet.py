"""Published ImageNet weights: from the local cache, else from timm's own address, else a message at once."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import huggingface_hub
import timm
import torch
from huggingface_hub import errors as hub_errors

from dfcore.errors import ConfigError

__all__ = ["fetch_imagenet_weights"]

logger = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 5.0
_HUB_FILE = "model.safetensors"
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")
# HTTPError is the transport's own class, which changes its package between versions of the client
_NOT_FETCHED = (OSError, RuntimeError, hub_errors.HTTPError)  # type: ignore[attr-defined]  # re-exported


def fetch_imagenet_weights(name: str) -> Path:
    """Return the file with timm's published weights, downloaded only if no cache has it.

    Args:
        name: of a timm model.

    Raises:
        ConfigError: there are none, or they are neither cached nor within reach. An address that does not
            answer is given up after some seconds.
    """
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.hf_hub_id:
        return _from_hub(name, published.hf_hub_id, published.hf_hub_filename or _HUB_FILE)
    if published is not None and isinstance(published.url, str) and published.url:
        return _from_address(name, published.url)
    raise ConfigError(
        f"expected a backbone with published weights, got {name!r}; set model.pretrained=false to train "
        "from scratch, or give a file as model.weights"
    )


def _from_hub(name: str, repository: str, filename: str) -> Path:
    cached = huggingface_hub.try_to_load_from_cache(repository, filename)
    if isinstance(cached, str):
        return Path(cached)
    address = huggingface_hub.hf_hub_url(repository, filename)
    _require_answer(name, address)
    logger.info("downloading weights of %s from %s", name, address)
    try:
        return Path(huggingface_hub.hf_hub_download(repository, filename, etag_timeout=_TIMEOUT_SECONDS))
    except _NOT_FETCHED as error:
        # the client's own message speaks of a cache; its cause says what the server answered
        raise _unreachable(name, address, error.__cause__ or error) from error


def _from_address(name: str, address: str) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"  # where timm itself keeps it
    path = folder / Path(urlsplit(address).path).name
    if path.is_file():
        return path
    _require_answer(name, address)
    logger.info("downloading weights of %s from %s", name, address)
    folder.mkdir(parents=True, exist_ok=True)
    digest = _HASH_IN_NAME.search(path.name)
    try:
        # under a temporary name first, and compared with the digest in the file's name
        torch.hub.download_url_to_file(address, str(path), digest and digest.group(1), progress=False)
    except _NOT_FETCHED as error:
        raise _unreachable(name, address, error) from error
    return path


def _require_answer(name: str, address: str) -> None:
    """Ask once, with a time limit: the clients' own retries take minutes where there is no network."""
    if huggingface_hub.is_offline_mode():
        raise _unreachable(name, address, "HF_HUB_OFFLINE is set")
    request = Request(address, method="HEAD")  # noqa: S310  # timm's addresses are http
    try:
        with urlopen(request, timeout=_TIMEOUT_SECONDS):  # noqa: S310
            pass
    except HTTPError:
        return  # somebody is there; what the answer means is the download's to find out
    except OSError as error:
        raise _unreachable(name, address, error) from error


def _unreachable(name: str, address: str, reason: object) -> ConfigError:
    return ConfigError(
        f"expected ImageNet weights of {name} in the cache or from {address}, got: {reason}; download that "
        "file elsewhere and give it as model.weights=FILE, or train from scratch with model.pretrained=false"
    )
