"""What a rollout does and asks for; the same keys stand in the platform's values file, in camelCase."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from dfcore.config import Config

__all__ = ["Analysis", "RolloutSettings", "ServiceSettings", "Toleration", "Traffic", "Values", "merged"]

_ALL = 100
# as in the chart's helpers and values
_CHART, _NAME = "rampart", 40
_RESOURCES = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "8Gi"}}


def _whole(value: Any) -> Any:
    """KFP hands every number over as a float, and Kubernetes takes 1.0 for no integer."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def merged(base: Any, own: Any) -> Any:
    """Merge mappings as Helm does: key by key, lists and values replaced."""
    if not (isinstance(base, Mapping) and isinstance(own, Mapping)):
        return own
    return {**base, **{key: merged(base.get(key), value) for key, value in own.items()}}


Weight = Annotated[int, Field(ge=1, le=_ALL - 1)]
Manifest = Annotated[dict[str, Any], BeforeValidator(_whole)]
Quantity = Annotated[
    str, BeforeValidator(lambda value: str(_whole(value)) if isinstance(value, (int, float)) else value)
]


class Values(Config):
    """Settings whose keys are written as Kubernetes writes its own."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")


class Toleration(Values):
    """One taint that a pod does not mind; see Kubernetes' `tolerations`."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None

    def manifest(self) -> dict[str, Any]:
        """Return it as Kubernetes writes it."""
        return self.model_dump(by_alias=True, exclude_none=True)


class StoreSettings(Values):
    """How pods reach the registry's object store; the keys of the chart's `store`.

    Attributes:
        endpoint: URL of the S3 server; "" means AWS.
        existing_secret: a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, mounted as files; "" for
            credentials that pods have of themselves.
        ca_config_map: a ConfigMap with ca.crt, the authority of the server's certificate.
    """

    endpoint: str = ""
    region: str = "us-east-1"
    existing_secret: str = ""
    ca_config_map: str = ""


class TrustSettings(Values):
    """Who must have signed what is served; the chart's `trust`.

    Attributes:
        existing_config_map: a ConfigMap with rampart.pub; "" takes the registry's own key.
    """

    existing_config_map: str = ""


class PodSecurity(Values):
    """User and group of pods; None where the platform chooses. The chart's `podSecurity`."""

    run_as_user: int | None = Field(default=65532, ge=1)
    run_as_group: int | None = Field(default=65532, ge=1)
    fs_group: int | None = Field(default=65532, ge=1)


class Resources(Values):
    """CPU and memory of each pod, on top of the chart's; null takes one of those away."""

    requests: dict[str, Quantity | None] = Field(default_factory=dict)
    limits: dict[str, Quantity | None] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _on_top_of_the_charts(cls, given: Any) -> Any:
        return merged(_RESOURCES, given)

    def manifest(self) -> dict[str, dict[str, str]]:
        """Return them as Kubernetes writes them; what is null is taken away."""
        return {
            part: {key: value for key, value in held.items() if value is not None}
            for part, held in (("requests", self.requests), ("limits", self.limits))
        }


class ServiceSettings(Values):
    """The predictor that every version is served by; most keys are those of the chart's `serving`.

    Attributes:
        image: holds `rampart serve`.
        name: of the InferenceService; the model's, in the letters that Kubernetes takes, if left out.
        release: of the chart in this namespace, whose ServiceAccount, server settings, disruption budget and
            monitor become these pods' too; "" where there is none.
        name_override, fullname_override, common_labels: the release's.
        service_account: another than the release's.
        settings_config_map: an existing ConfigMap with settings.yaml, another than the release's.
        tokens_secret: an existing Secret with tokens.yaml; settings.yaml must name it, as the release's does.
        replicas: of the stable predictor; a candidate has as many.
        gpus: of each pod.
        cache_size: room for downloaded bundles.
        drain_seconds, grace_seconds: as in settings.yaml; a pod gets ten seconds more before it is killed.
        extra_env: further variables, as Kubernetes writes them.
    """

    image: str
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    name: str | None = None
    release: str = ""
    name_override: str = ""
    fullname_override: str = Field(default="", alias="fullnameOverride")
    common_labels: dict[str, str] = Field(default_factory=dict)
    service_account: str = ""
    settings_config_map: str = ""
    tokens_secret: str = ""
    store: StoreSettings = StoreSettings()
    trust: TrustSettings = TrustSettings()
    replicas: int = Field(default=2, ge=1)
    gpus: int = Field(default=0, ge=0)
    resources: Resources = Resources()
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    affinity: Manifest = Field(default_factory=dict)
    topology_spread_constraints: tuple[Manifest, ...] = ()
    priority_class_name: str = ""
    cache_size: Quantity = "4Gi"
    drain_seconds: int = Field(default=10, ge=0)
    grace_seconds: int = Field(default=30, ge=1)
    extra_env: tuple[Manifest, ...] = ()
    pod_annotations: dict[str, str] = Field(default_factory=dict)
    pod_security: PodSecurity = PodSecurity()

    @model_validator(mode="after")
    def _tokens_are_asked_for(self) -> Self:
        if self.tokens_secret and not (self.settings_config_map or self.release):
            raise ValueError(
                "expected settingsConfigMap or release with tokensSecret: without settings that name "
                "tokens_file the server would ask nobody for a token"
            )
        return self

    @property
    def chart_name(self) -> str:
        """The chart's name in labels."""
        return (self.name_override or _CHART)[:_NAME].removesuffix("-")

    @property
    def full_name(self) -> str:
        """What the release's objects are called by; "" without one."""
        if not self.release:
            return ""
        joined = self.release if self.chart_name in self.release else f"{self.release}-{self.chart_name}"
        return (self.fullname_override or joined)[:_NAME].removesuffix("-")


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
