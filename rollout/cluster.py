"""The few calls of the Kubernetes API that a rollout makes; its refusals become errors with an advice."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import urllib3
from kubernetes import client, config

from dfcore.errors import ConfigError, ConflictError, WorkFailed

__all__ = ["DEPLOYMENT", "HTTP_ROUTE", "INFERENCE_SERVICE", "LEASE", "MANAGER", "Cluster", "Kind"]

MANAGER = "rampart-rollout"
_SECONDS = 30
_POLL_SECONDS = 0.2


class Kind(NamedTuple):
    """A kind of object: what its manifests say and where its API is."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        """As manifests write it."""
        return f"{self.group}/{self.version}"


INFERENCE_SERVICE = Kind("serving.kserve.io", "v1beta1", "InferenceService", "inferenceservices")
HTTP_ROUTE = Kind("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes")
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, api: Any, namespace: str) -> None:
        """Wrap a `kubernetes.client.ApiClient`; nothing is asked yet."""
        self._api = api
        self.namespace = namespace

    @classmethod
    def connect(cls, namespace: str, *, context: str | None = None) -> Cluster:
        """Connect as the pod's ServiceAccount, or else by the kubeconfig (KUBECONFIG).

        Raises:
            ConfigError: there is neither.
        """
        settings = client.Configuration()
        try:
            if context is None:
                try:
                    config.load_incluster_config(client_configuration=settings)
                except config.ConfigException:
                    config.load_kube_config(client_configuration=settings)
            else:
                config.load_kube_config(context=context, client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            raise ConfigError(
                f"expected a ServiceAccount's token or a kubeconfig, got: {error}; set KUBECONFIG"
            ) from error
        settings.retries = 3
        return cls(client.ApiClient(settings), namespace)

    def serves(self, kind: Kind) -> bool:
        """Whether the cluster has this kind."""
        try:
            found = self._call("GET", f"/apis/{kind.group}/{kind.version}")
        except _NotFound:
            return False
        return any(item["name"] == kind.plural for item in found["resources"])

    def has_field(self, kind: Kind, *path: str) -> bool:
        """Whether the schema of a kind's spec has a field."""
        document = self._call("GET", f"/openapi/v3/apis/{kind.group}/{kind.version}")
        for schema in document["components"]["schemas"].values():
            marks = schema.get("x-kubernetes-group-version-kind", ())
            if any(mark["kind"] == kind.kind for mark in marks):
                node = schema.get("properties", {}).get("spec", {})
                for name in path:
                    node = node.get("properties", {}).get(name, {})
                return bool(node)
        return False

    def get(self, kind: Kind, name: str) -> dict[str, Any] | None:
        """Return an object, or None."""
        try:
            return self._call("GET", self._path(kind, name))
        except _NotFound:
            return None

    def apply(
        self, kind: Kind, document: Mapping[str, Any], *, force: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        """Apply on the server as the field manager MANAGER.

        Raises:
            ConflictError: somebody else set a field to another value, and `force` is off.
            ConfigError: the cluster refuses the object.
            WorkFailed: the object is being deleted, and what was applied would go with it.
        """
        query = [("fieldManager", MANAGER), ("force", "true" if force else "false")]
        if dry_run:
            query.append(("dryRun", "All"))
        name = document["metadata"]["name"]
        found = self._call(
            "PATCH", self._path(kind, name), document, query, content="application/apply-patch+yaml"
        )
        if "deletionTimestamp" in found["metadata"]:
            finalizers = ", ".join(found["metadata"].get("finalizers", []))
            raise WorkFailed(
                f"expected {kind.plural}/{name} to be there or not, got one that is being deleted; see who "
                f"holds its finalizers ({finalizers}), and try again when it is gone"
            )
        return found

    def create(self, kind: Kind, document: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object; ConflictError if there is one of this name."""
        return self._call("POST", self._path(kind), document)

    def replace(self, kind: Kind, document: Mapping[str, Any]) -> dict[str, Any]:
        """Replace an object; ConflictError if it changed since it was read."""
        return self._call("PUT", self._path(kind, document["metadata"]["name"]), document)

    def delete(self, kind: Kind, name: str) -> bool:
        """Delete an object and wait for its finalizers, 30 seconds at most; whether there was one."""
        try:
            self._call("DELETE", self._path(kind, name), query=[("propagationPolicy", "Background")])
        except _NotFound:
            return False
        # so that the next apply makes a new one
        until = time.monotonic() + _SECONDS
        while self.get(kind, name) is not None and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        return True

    def _path(self, kind: Kind, name: str | None = None) -> str:
        path = f"/apis/{kind.group}/{kind.version}/namespaces/{self.namespace}/{kind.plural}"
        return path if name is None else f"{path}/{name}"

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: list[tuple[str, str]] | None = None,
        content: str = "application/json",
    ) -> dict[str, Any]:
        try:
            found, _, _ = self._api.call_api(
                path, method, query_params=query or [], body=body, response_type="object",
                header_params={"Accept": "application/json", "Content-Type": content},
                auth_settings=["BearerToken"], _request_timeout=_SECONDS,
            )  # fmt: skip
        except client.ApiException as error:
            raise _translated(error, method, path) from error
        except urllib3.exceptions.HTTPError as error:
            raise WorkFailed(
                f"expected the Kubernetes API to answer {method} {path}, got: {error}; check its address"
            ) from error
        result: dict[str, Any] = found
        return result


class _NotFound(WorkFailed):
    """The object, or its kind, is not there."""


def _translated(error: Any, method: str, path: str) -> Exception:
    try:
        status = json.loads(error.body or "{}")
    except ValueError:
        status = {}
    said = str(status.get("message") or error.reason)
    name = path.rpartition("/apis/")[2]
    if error.status == 404:
        return _NotFound(f"expected {name} in the cluster, got: {said}")
    if error.status == 409:
        if status.get("reason") == "Conflict" and (owners := _owners(status)):
            return ConflictError(
                f"expected to own what a rollout sets in {name}, got fields of another owner: {owners}; undo "
                "that change, or take the fields over (takeOver: true, or --take-over)"
            )
        return ConflictError(f"expected {name} as it was read, got: {said}; try again")
    if error.status in {401, 403}:
        return ConfigError(
            f"expected permission to {method} {name}, got: {said}; bind the rollout's Role to this account"
        )
    if error.status in {400, 422}:
        return ConfigError(f"expected the cluster to admit {name}, got: {said}")
    return WorkFailed(f"expected the cluster to {method} {name}, got HTTP {error.status}: {said}")


def _owners(status: Mapping[str, Any]) -> str:
    causes = (status.get("details") or {}).get("causes") or ()
    found = [
        f"{cause.get('field', '?')} ({cause.get('message', '')})" for cause in causes
        if cause.get("reason") == "FieldManagerConflict"
    ]  # fmt: skip
    return "; ".join(found)
