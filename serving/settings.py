"""What the server allows and how much of the machine it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from dfcore.config import Config, read_yaml, suggest
from dfcore.errors import ConfigError
from dfcore.monitoring import FingerprintConfig, MonitoringPolicy
from dfcore.monitoring.fitting import SIGNS
from dfcore.preprocessing import MediaLimits

__all__ = [
    "BatchSettings",
    "EngineSettings",
    "MonitoringSettings",
    "PayloadSettings",
    "RateLimit",
    "Role",
    "ServedMedia",
    "ServerSettings",
    "choose_settings",
]

_WITHHOLDING = {"abstain", "refuse"}
_Port = Annotated[int, Field(ge=1, le=65535)]

Role = Literal["all", "predictor", "transformer", "explainer"]


class EngineSettings(Config):
    """How the network runs.

    Attributes:
        device: "auto" takes the GPU where there is one.
        precision: "auto" is bf16 on a GPU that has it and fp32 elsewhere; bf16 is dropped, with a warning,
            where it moves a score of a probe by more than .01.
        compiled: compile the network; None does so on a GPU. The first requests' batch sizes are compiled
            before the server is ready.
        attack_scores: "auto" scores with as many squeezed copies as the device affords, "off" not at all; or
            the names of the squeezers, one of `dfcore.monitoring.VARIANTS`.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compiled: bool | None = None
    attack_scores: Literal["auto", "off"] | tuple[str, ...] = "auto"


class BatchSettings(Config):
    """Micro-batching of crops across requests, where PyTorch runs the network.

    Attributes:
        max_crops: of one forward pass.
        delay_seconds: how long the first crop waits for company while the network is idle. While it is busy
            crops gather anyway.
    """

    max_crops: int = Field(default=64, ge=1, le=4096)
    delay_seconds: float = Field(default=0.002, ge=0, le=1)


class RateLimit(Config):
    """Requests of one identity: a token's owner, or an address where no tokens are asked for."""

    per_second: float = Field(gt=0)
    burst: int = Field(default=10, ge=1)


class PayloadSettings(Config):
    """The payload log: one row for each answer, with scores and embedding, never an image.

    Attributes:
        uri: a folder, `file://…` or `s3://…`.
        rows: of one file.
        seconds: after which a file is written that is not full.
        embeddings: log them too; those of faces are personal data.
    """

    uri: str
    rows: int = Field(default=4096, ge=1)
    seconds: float = Field(default=300.0, gt=0)
    embeddings: bool = True


class MonitoringSettings(Config):
    """What happens with inputs that look attacked, and what is kept of answers.

    Attributes:
        policy: reaction to each raised sign.
        fingerprints: how the queries of one identity are compared; None leaves that out.
        redis_url: where replicas and workers share fingerprints; None keeps them in each process.
        salt_file: secret of the fingerprints, at least 16 bytes, the same for all that share them.
        payloads: the payload log; None writes none.
    """

    policy: MonitoringPolicy = MonitoringPolicy()
    fingerprints: FingerprintConfig | None = FingerprintConfig()
    redis_url: str | None = None
    salt_file: Path | None = None
    payloads: PayloadSettings | None = None

    def reactions(self) -> dict[str, str]:
        """Return the reaction to each kind that the policy names."""
        policy = self.policy
        return {**policy.parts, "combined": policy.combined, "queries": policy.queries}

    @model_validator(mode="after")
    def _names_and_salt_fit(self) -> Self:
        for kind in set(self.policy.parts) - set(SIGNS):
            raise ValueError(f"unknown sign {kind!r} in policy.parts{suggest(kind, SIGNS)}")
        if self.redis_url is not None and self.salt_file is None:
            raise ValueError("expected salt_file with redis_url: replicas compare fingerprints of one salt")
        return self


class ServedMedia(MediaLimits):
    """The largest image or video of a request: less than a batch job would take, as many come at once."""

    max_bytes: int = Field(default=96 * 2**20, gt=0)
    max_pixels: int = Field(default=25_000_000, gt=0)
    seconds_to_decode: float = Field(default=30.0, gt=0)
    max_memory_bytes: int = Field(default=512 * 2**20, gt=0)


class ServerSettings(Config):
    """Every limit of the endpoint; a request beyond one gets a 4xx that names it.

    What all requests together may take stays below 8 GiB: docs/sizing.md has the sum.

    Attributes:
        host: address that is listened on; in a container 0.0.0.0.
        grpc_port: port of the Open Inference Protocol over gRPC; None leaves gRPC off.
        workers: processes that share the HTTP port; on Kubernetes leave it at one and scale replicas.
        role: the transformer finds faces and asks the predictor at `predictor_host` for scores; the predictor
            takes crops; the explainer answers :explain.
        predictor_host: HOST:PORT of the predictor, for the transformer.
        predictor_protocol: V2 over HTTP, or over gRPC.
        predictor_token_file: file with the bearer token for the predictor.
        engine: how the network runs.
        batch: micro-batching.
        threads: of one forward pass; ONNX Runtime gives each to a crop of its own.
        concurrency: requests that are decoded and searched for faces at the same time; probes don't wait.
        max_queue: requests that may wait for that; one more gets a 429.
        deadline_seconds: how long one may wait before it gets a 429.
        explain_queue: explanations that may wait; one is computed at a time.
        explain_instances: images in one :explain request.
        max_instances: images, videos or crops in one request.
        max_faces: faces in one image.
        max_body_bytes: size of one HTTP request.
        max_pending_bytes: of all request bodies that are held at the same time.
        body_seconds: how long a client may take to send its headers, and then its body.
        monitoring: policy, query fingerprints, payload log.
        media: limits of one image or video (bytes, pixels, frames, seconds).
        allowed_prefixes: addresses that `{"uri": …}` may point below, each ending in "/"; none by default,
            because a server that fetches what a stranger names can be turned against its own network.
        tokens_file: YAML of identities and their bearer tokens; read again when it changes. None asks for no
            token. Probes and /metrics never need one.
        rate_limit: per identity; None sets no limit.
        reload_seconds: how often a channel is looked at for a new version; None serves the first for ever.
        drain_seconds: between SIGTERM, when readiness turns 503, and the end of listening.
        grace_seconds: how long requests under way may take after that.
    """

    host: str = "127.0.0.1"
    grpc_port: _Port | None = None
    workers: int = Field(default=1, ge=1, le=64)
    role: Role = "all"
    predictor_host: str | None = None
    predictor_protocol: Literal["v2", "grpc-v2"] = "v2"
    predictor_token_file: Path | None = None
    engine: EngineSettings = EngineSettings()
    batch: BatchSettings = BatchSettings()
    threads: int = Field(default=2, ge=1)
    concurrency: int = Field(default=2, ge=1)
    max_queue: int = Field(default=64, ge=0)
    deadline_seconds: float = Field(default=30.0, gt=0)
    explain_queue: int = Field(default=4, ge=0)
    explain_instances: int = Field(default=4, ge=1)
    max_instances: int = Field(default=16, ge=1)
    max_faces: int = Field(default=256, ge=1)
    max_body_bytes: int = Field(default=128 * 2**20, ge=1)
    max_pending_bytes: int = Field(default=256 * 2**20, ge=1)
    body_seconds: float = Field(default=60.0, gt=0)
    monitoring: MonitoringSettings = MonitoringSettings()
    media: ServedMedia = ServedMedia()
    allowed_prefixes: tuple[str, ...] = ()
    tokens_file: Path | None = None
    rate_limit: RateLimit | None = None
    reload_seconds: float | None = Field(default=30.0, gt=0)
    drain_seconds: float = Field(default=0.0, ge=0)
    grace_seconds: int = Field(default=30, ge=1)

    @field_validator("allowed_prefixes")
    @classmethod
    def _end_in_slash(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in prefixes:
            if not prefix.startswith(("s3://", "file:///")) or not prefix.endswith("/"):
                raise ValueError(f"expected a prefix such as s3://bucket/folder/, got {prefix!r}")
        return prefixes

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.role == "transformer") != (self.predictor_host is not None):
            raise ValueError("expected predictor_host with role transformer, and with no other role")
        if self.max_pending_bytes < self.max_body_bytes:
            raise ValueError("expected max_pending_bytes of at least max_body_bytes")
        if self.role == "predictor" and _WITHHOLDING & set(self.monitoring.reactions().values()):
            raise ValueError(
                "expected abstain and refuse in the transformer's policy: a predictor sees single crops of it"
            )
        if self.workers > 1 and self.grpc_port is not None:
            raise ValueError("expected one worker with gRPC; scale replicas instead")
        return self


def choose_settings(file: Path | None, **given: str | None) -> ServerSettings:
    """Read settings from a YAML file, if there is one; what the command line gives comes first.

    Raises:
        ConfigError: the file or a value does not fit.
    """
    data = (read_yaml(file, "settings") or {}) if file is not None else {}
    if not isinstance(data, dict):
        raise ConfigError(f"expected settings by name in {file}, got {type(data).__name__}")
    chosen = {key: value for key, value in given.items() if value is not None}
    return ServerSettings.parse({**data, **chosen}, str(file or "command line"))
