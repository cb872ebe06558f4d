"""What a rollout does and asks for; the same keys stand in the platform's values file, in camelCase."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from dfcore.config import Config

__all__ = ["Analysis", "RolloutSettings", "ServiceSettings", "Toleration", "Traffic", "Values"]

_ALL = 100

Weight = Annotated[int, Field(ge=1, le=_ALL - 1)]


class Values(Config):
    """Settings whose keys are written as Kubernetes writes its own."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")


class Toleration(Values):
    """One taint that a pod does not mind; see Kubernetes' `tolerations`."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    def manifest(self) -> dict[str, Any]:
        """Return it as Kubernetes writes it."""
        return self.model_dump(by_alias=True, exclude_none=True)


class ServiceSettings(Values):
    """The predictor that every version is served by.

    Attributes:
        image: holds `rampart serve`.
        name: of the InferenceService; the model's, in the letters that Kubernetes takes, if left out.
        replicas: of the stable predictor; a candidate has as many.
        gpus: of each pod.
        requests, limits: CPU and memory of each pod.
        secret: an existing Secret whose keys become environment variables (AWS_ACCESS_KEY_ID, …).
        environment: further variables, such as AWS_ENDPOINT_URL.
        options: further options of `rampart serve`.
    """

    image: str
    name: str | None = None
    service_account: str | None = None
    replicas: int = Field(default=1, ge=1)
    gpus: int = Field(default=0, ge=0)
    requests: dict[str, str] = Field(default_factory=lambda: {"cpu": "1", "memory": "2Gi"})
    limits: dict[str, str] = Field(default_factory=lambda: {"cpu": "2", "memory": "4Gi"})
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    secret: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    options: tuple[str, ...] = ()


class Traffic(Values):
    """The Gateway API route whose weights move, for KServe's Standard mode.

    Attributes:
        gateway: name of an existing Gateway.
        gateway_namespace: where it is, if elsewhere.
        hostnames: that the route answers to; empty takes all of the gateway's.
    """

    gateway: str
    gateway_namespace: str | None = None
    hostnames: tuple[str, ...] = ()


class Analysis(Values):
    """What the candidate must show beside the stable version, by Prometheus; no data is a no.

    Attributes:
        prometheus: its address.
        token_file: a bearer token for it.
        interval_seconds: between two looks.
        minimum_requests: that the candidate must have answered at each weight before it may go on.
        maximum_error_increase: of the share of requests that were refused or failed.
        maximum_latency_ratio: of the time in the network, at `latency_quantile`.
        maximum_score_psi: population stability index between the scores of both.
        maximum_flag_increase: of the share of answers that were flagged as attacks.
    """

    prometheus: str
    token_file: Path | None = None
    interval_seconds: float = Field(default=30.0, gt=0)
    minimum_requests: int = Field(default=100, ge=1)
    maximum_error_increase: float = Field(default=0.01, ge=0, le=1)
    maximum_latency_ratio: float = Field(default=1.5, gt=0)
    latency_quantile: float = Field(default=0.95, gt=0, lt=1)
    maximum_score_psi: float = Field(default=0.25, gt=0)
    maximum_flag_increase: float = Field(default=0.05, ge=0, le=1)

    @field_validator("prometheus")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError(f"expected an http(s) address of Prometheus, got {value!r}")
        return value.rstrip("/")


class RolloutSettings(Values):
    """How a promoted version gets the traffic.

    Attributes:
        namespace: of the InferenceService.
        mode: KServe's: "standard" or "knative".
        steps: shares of the traffic in percent that the candidate gets one after another.
        hold_seconds: how long each share is watched.
        ready_seconds: how long pods may take to get ready.
        traffic: None leaves the weights to KServe, where it can.
        take_over: become the owner of fields that somebody else set.
    """

    namespace: str
    service: ServiceSettings
    analysis: Analysis
    traffic: Traffic | None = None
    mode: Literal["standard", "knative"] = "standard"
    steps: tuple[Weight, ...] = (10, 25, 50)
    hold_seconds: float = Field(default=600.0, gt=0)
    ready_seconds: float = Field(default=900.0, gt=0)
    take_over: bool = False

    @model_validator(mode="after")
    def _steps_rise(self) -> Self:
        if not self.steps or list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"expected steps that rise, such as [10, 25, 50], got {list(self.steps)}")
        if self.hold_seconds < self.analysis.interval_seconds:
            raise ValueError(
                "expected holdSeconds of at least analysis.intervalSeconds="
                f"{self.analysis.interval_seconds:g}, got {self.hold_seconds:g}; raise it"
            )
        return self
