"""The pods that serve a version: as the chart's own, field by field, but for the version that they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rollout.settings import ServiceSettings

__all__ = ["pod_labels", "server_pod"]

_PORT = 8080
_HARDENED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_NO_LIMIT = "256"  # CPUs; KServe gives one to a container that names no limit
_KILLED_AFTER = 10  # seconds beyond draining and the requests under way


class _Volume(NamedTuple):
    """What is mounted where; the root is read-only."""

    name: str
    path: str
    source: dict[str, Any]

    @property
    def read_only(self) -> bool:
        return "emptyDir" not in self.source


def pod_labels(service: str, settings: ServiceSettings) -> dict[str, str]:
    """Return the labels by which a release's policies, budget and monitor find the pods of a service."""
    return {
        "app.kubernetes.io/name": settings.chart_name,
        "app.kubernetes.io/instance": settings.release or service,
        "app.kubernetes.io/component": "server",
        "app.kubernetes.io/part-of": "rampart",
    }


def server_pod(
    model: str, name: str, registry: str, labels: Mapping[str, str], settings: ServiceSettings
) -> dict[str, Any]:
    """Return the keys of a pod in which the server runs.

    Args:
        model: what is served: registry://….
        name: on the endpoint's path.
        registry: address of the registry.
        labels: the pod's.
        settings: the rest.
    """
    volumes = list(_volumes(settings))
    found: dict[str, Any] = {
        "serviceAccountName": settings.service_account
        or (f"{settings.full_name}-server" if settings.release else ""),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": settings.drain_seconds + settings.grace_seconds + _KILLED_AFTER,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            **settings.pod_security.model_dump(by_alias=True, exclude_none=True),
        },
        "imagePullSecrets": [{"name": secret} for secret in settings.image_pull_secrets],
        "priorityClassName": settings.priority_class_name,
        "nodeSelector": dict(settings.node_selector),
        "tolerations": [item.manifest() for item in settings.tolerations],
        "affinity": settings.affinity,
        "topologySpreadConstraints": list(settings.topology_spread_constraints) or [_spread(labels)],
        "containers": [_container(model, name, registry, volumes, settings)],
        "volumes": [{"name": volume.name, **volume.source} for volume in volumes],
    }
    return {key: value for key, value in found.items() if value not in ("", [], {})}


def _container(
    model: str, name: str, registry: str, volumes: list[_Volume], settings: ServiceSettings
) -> dict[str, Any]:
    mounted = {volume.name for volume in volumes}
    command = ["rampart", "serve", "--host", "0.0.0.0", "--http-port", str(_PORT)]  # noqa: S104  # inside a pod
    if "settings" in mounted:
        command += ["--settings", "/etc/rampart/server/settings.yaml"]
    resources = settings.resources.manifest()
    resources["limits"].setdefault("cpu", _NO_LIMIT)
    if settings.gpus:
        resources["limits"]["nvidia.com/gpu"] = str(settings.gpus)
    return {
        "name": "kserve-container",
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [*command, "--model", model, "--name", name],
        "env": [
            *({"name": key, "value": value} for key, value in _environment(registry, settings).items()),
            *settings.extra_env,
        ],
        "ports": [{"name": "http1", "containerPort": _PORT, "protocol": "TCP"}],
        # a bundle is fetched, verified, loaded and warmed up
        "startupProbe": {**_probe("live"), "periodSeconds": 5, "failureThreshold": 60},
        "livenessProbe": {**_probe("live"), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "readinessProbe": {**_probe("ready"), "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        "resources": resources,
        "securityContext": dict(_HARDENED),
        "volumeMounts": [
            {"name": volume.name, "mountPath": volume.path} | ({"readOnly": True} if volume.read_only else {})
            for volume in volumes
        ],
    }


def _environment(registry: str, settings: ServiceSettings) -> dict[str, str]:
    store = settings.store
    found = {
        "RAMPART_REGISTRY": registry,
        "AWS_REGION": store.region,
        "AWS_ENDPOINT_URL": store.endpoint,
        "AWS_CA_BUNDLE": "/etc/rampart/ca/ca.crt" if store.ca_config_map else "",
        "HOME": "/tmp",  # noqa: S108  # a volume of its own in the pod
        # files, not variables: a rotated Secret is read again, and no crash dump shows it
        "RAMPART_S3_SECRETS": "/etc/rampart/store" if store.existing_secret else "",
        "RAMPART_CACHE": "/cache",
        "RAMPART_PUBLIC_KEY": "/etc/rampart/trust/rampart.pub" if settings.trust.existing_config_map else "",
    }
    return {key: value for key, value in found.items() if value}


def _volumes(settings: ServiceSettings) -> Iterator[_Volume]:
    yield _Volume("tmp", "/tmp", {"emptyDir": {}})  # noqa: S108  # the pod's
    yield _Volume("cache", "/cache", {"emptyDir": {"sizeLimit": settings.cache_size}})
    own = settings.settings_config_map or (f"{settings.full_name}-server" if settings.release else "")
    store = settings.store
    for name, path, config_map in (
        ("settings", "server", own),
        ("trust", "trust", settings.trust.existing_config_map),
        ("ca", "ca", store.ca_config_map),
    ):
        if config_map:
            yield _Volume(name, f"/etc/rampart/{path}", {"configMap": {"name": config_map}})
    for name, secret in (("store", store.existing_secret), ("tokens", settings.tokens_secret)):
        if secret:
            yield _Volume(name, f"/etc/rampart/{name}", {"secret": {"secretName": secret}})


def _probe(what: str) -> dict[str, Any]:
    return {"httpGet": {"path": f"/v2/health/{what}", "port": _PORT}}


def _spread(labels: Mapping[str, str]) -> dict[str, Any]:
    """Over nodes, where that is possible."""
    chosen = {key: value for key, value in labels.items() if not key.endswith("/part-of")}
    return {
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": chosen},
    }  # fmt: skip
