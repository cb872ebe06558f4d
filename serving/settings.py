"""What the server allows and how much of the machine it takes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from dfcore.config import Config
from dfcore.preprocessing import MediaLimits

__all__ = ["ServerSettings"]

_Port = Annotated[int, Field(ge=1, le=65535)]


class ServerSettings(Config):
    """Every limit of the endpoint; a request beyond one gets a 4xx that names it.

    Attributes:
        grpc_port: port of the Open Inference Protocol over gRPC; None leaves gRPC off.
        threads: threads of one forward pass.
        concurrency: requests that are computed at the same time; the others wait, probes don't.
        max_instances: images or videos in one request.
        max_body_bytes: size of one HTTP request.
        media: limits of one image or video (bytes, pixels, frames, seconds).
        allowed_prefixes: addresses that `{"uri": …}` may point below, each ending in "/"; none by default,
            because a server that fetches what a stranger names can be turned against its own network.
    """

    grpc_port: _Port | None = None
    threads: int = Field(default=2, ge=1)
    concurrency: int = Field(default=2, ge=1)
    max_instances: int = Field(default=16, ge=1)
    max_body_bytes: int = Field(default=128 * 1024 * 1024, ge=1)
    media: MediaLimits = MediaLimits()
    allowed_prefixes: tuple[str, ...] = ()

    @field_validator("allowed_prefixes")
    @classmethod
    def _end_in_slash(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in prefixes:
            if "://" not in prefix or not prefix.endswith("/"):
                raise ValueError(f"expected a prefix such as s3://bucket/folder/, got {prefix!r}")
        return prefixes
