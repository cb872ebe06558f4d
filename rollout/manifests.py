"""The objects that serve a published version: InferenceServices and the route between them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from rollout.cluster import HTTP_ROUTE, INFERENCE_SERVICE
from rollout.settings import RolloutSettings, ServiceSettings, Traffic

__all__ = ["VERSION", "Release", "http_route", "inference_service", "predictor", "service_name", "version_of"]

VERSION = "rampart.io/model-version"
_PORT = 8080
_HARDENED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
# The root is read-only: bundles and compiled kernels need a place.
_WRITABLE = {"cache": "/cache", "tmp": "/tmp"}  # noqa: S108  # a volume of its own in the pod


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
    resources: dict[str, dict[str, str]] = {
        "requests": dict(settings.requests),
        "limits": dict(settings.limits),
    }
    if settings.gpus:
        resources["limits"]["nvidia.com/gpu"] = resources["requests"]["nvidia.com/gpu"] = str(settings.gpus)
    home = _WRITABLE["cache"]
    environment = {"RAMPART_REGISTRY": release.registry, "RAMPART_CACHE": home, "HOME": home}
    container: dict[str, Any] = {
        "name": "kserve-container",
        "image": settings.image,
        "command": [
            "rampart", "serve", "--host", "0.0.0.0", "--http-port", str(_PORT),  # noqa: S104  # inside a pod
            "--model", f"registry://{release.name}@{release.version}", "--name", release.name,
            *settings.options,
        ],
        "env": [
            {"name": name, "value": value} for name, value in (environment | settings.environment).items()
        ],
        "ports": [{"name": "http1", "containerPort": _PORT, "protocol": "TCP"}],
        "readinessProbe": _probe(f"/v2/models/{release.name}/ready", 3),
        "livenessProbe": _probe("/v2/health/live", 6),
        "resources": resources,
        "securityContext": dict(_HARDENED),
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in _WRITABLE.items()],
    }  # fmt: skip
    if settings.secret is not None:
        container["envFrom"] = [{"secretRef": {"name": settings.secret}}]
    found: dict[str, Any] = {
        "minReplicas": settings.replicas,
        "maxReplicas": settings.replicas,
        # A new pod would wait for ever for the GPU that the old one holds.
        "deploymentStrategy": {
            "type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
        },
        "annotations": {VERSION: release.version},
        "volumes": [{"name": name, "emptyDir": {}} for name in _WRITABLE],
        "containers": [container],
    }  # fmt: skip
    if settings.service_account is not None:
        found["serviceAccountName"] = settings.service_account
    if settings.node_selector:
        found["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        found["tolerations"] = [item.manifest() for item in settings.tolerations]
    return found


def inference_service(
    release: Release, settings: RolloutSettings, *, name: str | None = None
) -> dict[str, Any]:
    """Return the InferenceService that serves a version.

    Args:
        release: the version.
        settings: of the rollout.
        name: the service's, if it is not the stable one.
    """
    mode = "Standard" if settings.mode == "standard" else "Knative"
    spec = predictor(release, settings.service)
    if settings.mode == "knative":
        del spec["deploymentStrategy"]  # Knative refuses it: each version is a revision of its own
    return {
        "apiVersion": INFERENCE_SERVICE.api_version,
        "kind": INFERENCE_SERVICE.kind,
        "metadata": {
            "name": name or service_name(release.name, settings.service),
            "namespace": settings.namespace,
            "labels": {"app.kubernetes.io/part-of": "rampart", "app.kubernetes.io/managed-by": "rampart"},
            "annotations": {
                "serving.kserve.io/deploymentMode": mode, "serving.kserve.io/autoscalerClass": "none",
                "prometheus.io/scrape": "true", "prometheus.io/port": str(_PORT), VERSION: release.version,
            } if settings.mode == "standard" else {
                "serving.kserve.io/deploymentMode": mode, VERSION: release.version,
            },
        },
        "spec": {"predictor": spec},
    }  # fmt: skip


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
            "labels": {"app.kubernetes.io/part-of": "rampart", "app.kubernetes.io/managed-by": "rampart"},
        },
        "spec": spec,
    }


def _probe(path: str, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": _PORT}, "periodSeconds": 10, "timeoutSeconds": 5,
        "failureThreshold": failures,
    }  # fmt: skip
