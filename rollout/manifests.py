"""The objects that serve a published version: InferenceServices and the route between them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from rollout.cluster import HTTP_ROUTE, INFERENCE_SERVICE
from rollout.pods import pod_labels, server_pod
from rollout.settings import RolloutSettings, ServiceSettings, Traffic

__all__ = ["VERSION", "Release", "http_route", "inference_service", "predictor", "service_name", "version_of"]

VERSION = "rampart.io/model-version"
_MANAGED = {"app.kubernetes.io/part-of": "rampart", "app.kubernetes.io/managed-by": "rampart"}


class Release(NamedTuple):
    """What is rolled out: a version of a model in a registry."""

    registry: str
    name: str
    version: str


def service_name(name: str, settings: ServiceSettings) -> str:
    """Return the InferenceService's name: as set, or the model's in the letters that Kubernetes takes."""
    return settings.name or re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")


def version_of(document: Mapping[str, Any] | None) -> str | None:
    """Return the version that an InferenceService of ours serves."""
    annotations = ((document or {}).get("metadata") or {}).get("annotations") or {}
    found = annotations.get(VERSION)
    return None if found is None else str(found)


def predictor(release: Release, settings: ServiceSettings) -> dict[str, Any]:
    """Return an InferenceService's predictor that serves exactly this version, whatever its channel does."""
    labels = pod_labels(service_name(release.name, settings), settings)
    model = f"registry://{release.name}@{release.version}"
    # A new pod would wait for ever for the GPU that the old one holds.
    surge, unavailable = (0, 1) if settings.gpus else (1, 0)
    return {
        "minReplicas": settings.replicas,
        "maxReplicas": settings.replicas,
        "deploymentStrategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
        },
        "labels": labels,
        "annotations": {**settings.pod_annotations, VERSION: release.version},
        **server_pod(model, release.name, release.registry, labels, settings),
    }


def inference_service(
    release: Release, settings: RolloutSettings, *, name: str | None = None
) -> dict[str, Any]:
    """Return the InferenceService that serves a version.

    Args:
        release: the version.
        settings: of the rollout.
        name: the service's, if it is not the stable one.
    """
    spec = predictor(release, settings.service)
    annotations = {VERSION: release.version}
    if settings.mode == "knative":
        # it refuses these: each version is a revision of its own
        for key in ("deploymentStrategy", "topologySpreadConstraints"):
            del spec[key]
        spec["timeout"] = spec.pop("terminationGracePeriodSeconds")
        annotations["serving.kserve.io/deploymentMode"] = "Knative"
    else:
        annotations["serving.kserve.io/deploymentMode"] = "Standard"
        annotations["serving.kserve.io/autoscalerClass"] = "none"
    return {
        "apiVersion": INFERENCE_SERVICE.api_version,
        "kind": INFERENCE_SERVICE.kind,
        "metadata": {
            "name": name or service_name(release.name, settings.service),
            "namespace": settings.namespace,
            "labels": {**spec["labels"], **_MANAGED, **settings.service.common_labels},
            "annotations": annotations,
        },
        "spec": {"predictor": spec},
    }


def http_route(name: str, namespace: str, traffic: Traffic, weights: Mapping[str, int]) -> dict[str, Any]:
    """Return the route of a service.

    Args:
        name: of the stable InferenceService, also the route's.
        namespace: of both.
        traffic: the gateway and the host names.
        weights: percent by InferenceService; KServe calls its Service NAME-predictor.
    """
    parent: dict[str, Any] = {"name": traffic.gateway}
    if traffic.gateway_namespace is not None:
        parent["namespace"] = traffic.gateway_namespace
    backends = [
        {"name": f"{service}-predictor", "port": 80, "weight": weight} for service, weight in weights.items()
    ]
    spec: dict[str, Any] = {
        "parentRefs": [parent],
        "rules": [
            {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": backends}
        ],
    }  # fmt: skip
    if traffic.hostnames:
        spec["hostnames"] = list(traffic.hostnames)
    return {
        "apiVersion": HTTP_ROUTE.api_version,
        "kind": HTTP_ROUTE.kind,
        "metadata": {
            "name": f"{name}-rollout",
            "namespace": namespace,
            "labels": dict(_MANAGED),
        },
        "spec": spec,
    }
