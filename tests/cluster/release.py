"""A release of the chart on a real cluster: what Helm did to it, and what is there now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.charts.tools import CHART, flat
from tests.cluster.control_plane import ControlPlane, Done

__all__ = ["Objects", "Release", "changes", "until"]

_SECRETS = (
    "minio.existingSecret", "registryInit.adminSecret", "serving.tokensSecret", "store.existingSecret",
)  # fmt: skip
_CONFIG_MAPS = ("store.caConfigMap", "trust.existingConfigMap")
# others make these
_DERIVED = {
    "ControllerRevision", "EndpointSlice", "Endpoints", "Event", "Lease", "PodMetrics", "ReplicaSet",
}  # fmt: skip
_SERVERS_OWN = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid")

_known: dict[Path, str] = {}

Objects = dict[str, dict[str, Any]]


class Release(NamedTuple):
    """One name in one namespace."""

    plane: ControlPlane
    namespace: str
    name: str = "rampart"

    def helm(self, *arguments: str) -> Done:
        """Run helm in the namespace; it may fail."""
        return self.plane.ask(*arguments, "--namespace", self.namespace, program="helm")

    def make(self, verb: str, variant: str | None, *assignments: str) -> Done:
        """Run `helm install` or `helm upgrade` with a variant's values; it may fail."""
        command = [verb, self.name, str(CHART)]
        if variant is not None:
            command += ["--values", str(_file(variant))]
        # what a variant says of another namespace
        own = [f"pipelines.rollout.namespace={self.namespace}"] if variant == "rollout" else []
        for assignment in (*own, *assignments):
            command += ["--set-json" if assignment.rpartition("=")[2][:1] in "[{" else "--set", assignment]
        return self.helm(*command)

    def install(self, variant: str | None, *assignments: str) -> Done:
        """Install it, with what the variant says is there."""
        self.prepare(variant)
        done = self.make("install", variant, *assignments)
        assert done.returncode == 0, done.stderr
        return done

    def upgrade(self, variant: str | None, *assignments: str) -> Done:
        """Upgrade it."""
        done = self.make("upgrade", variant, *assignments)
        assert done.returncode == 0, done.stderr
        return done

    def uninstall(self) -> None:
        """Remove it."""
        done = self.helm("uninstall", self.name)
        assert done.returncode == 0, done.stderr

    def prepare(self, variant: str | None) -> None:
        """Make the Secrets, ConfigMaps and the volume that a variant's values name."""
        values = {} if variant is None else yaml.safe_load(_file(variant).read_text(encoding="utf-8"))
        documents: list[dict[str, Any]] = [
            {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": self.namespace}}
            for kind, places in (("Secret", _SECRETS), ("ConfigMap", _CONFIG_MAPS))
            for name in {_dig(values, place) for place in places} - {None}
        ]
        if _dig(values, "minio.enabled"):
            claim = {"name": f"{self.name}-minio", "namespace": self.namespace}
            documents.append({
                "apiVersion": "v1", "kind": "PersistentVolume",
                "metadata": {"name": f"{self.namespace}-minio"},
                "spec": {"capacity": {"storage": "20Gi"}, "accessModes": ["ReadWriteOnce"], "claimRef": claim,
                         "hostPath": {"path": "/nowhere"}},
            })  # fmt: skip
        if documents:
            self.plane.apply(*documents)

    def get(self, kind: str, name: str) -> Any:
        """Return one object."""
        return self.plane.read("-n", self.namespace, kind, name)

    def list(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """Return the objects of a kind."""
        found: list[dict[str, Any]] = self.plane.read("-n", self.namespace, kind, *arguments)
        return found

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Return the pods of a component that are not on their way out."""
        found = self.list("pods", "-l", f"app.kubernetes.io/component={component}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def objects(self) -> Objects:
        """Return what somebody made here, by kind and name; not what controllers derive, no Helm records."""
        return {
            f"{one['kind']}/{one['metadata']['name']}": one
            for one in self.list(_kinds(self.plane))
            if one["kind"] not in _DERIVED and one.get("type") != "helm.sh/release.v1"
        }

    def settle(self) -> None:
        """Wait until every pod that is wanted is ready, every Job done, every InferenceService ready."""
        until(lambda: not [*self.unready()], lambda: "; ".join(self.unready()))

    def unready(self) -> Iterator[str]:
        """Yield what is not as it should be."""
        for one in self.list("deployments,jobs,inferenceservices"):
            name, status = f"{one['kind']}/{one['metadata']['name']}", one.get("status", {})
            if one["kind"] == "Deployment":
                wanted = one["spec"]["replicas"]
                counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")]
                if (
                    counts != [wanted] * 3
                    or status.get("observedGeneration", 0) < one["metadata"]["generation"]
                ):
                    yield f"{name}: {counts} of {wanted}"
            else:
                wanted = "Complete" if one["kind"] == "Job" else "Ready"
                said = {item["type"]: item["status"] for item in status.get("conditions", ())}
                if said.get(wanted) != "True":
                    yield f"{name}: {said}"

    def complaints(self) -> list[str]:
        """Return the warnings of controllers that could not make a pod."""
        return [
            event["message"] for event in self.list("events") if event["reason"].startswith("FailedCreate")
        ]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Return the places in which two sets of objects differ, but for what the server writes itself."""
    old, new = flat(_cleaned(before)), flat(_cleaned(after))
    return {place for place in {*old, *new} if old.get(place) != new.get(place)}


def until(holds: Callable[[], object], why: Callable[[], object] = lambda: "", seconds: float = 60) -> None:
    """Wait."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, why()
        time.sleep(0.4)


def _kinds(plane: ControlPlane) -> str:
    """Return all kinds that a namespace of a cluster may hold; asked once for each cluster."""
    if plane.folder not in _known:
        options = ("--namespaced", "--verbs=list,delete", "-o", "name")
        _known[plane.folder] = ",".join(plane.kubectl("api-resources", *options).split())
    return _known[plane.folder]


def _cleaned(objects: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, one in objects.items():
        if not name.startswith("Pod/"):
            metadata = {key: value for key, value in one["metadata"].items() if key not in _SERVERS_OWN}
            annotations = dict(metadata.pop("annotations", {}))
            annotations.pop("deployment.kubernetes.io/revision", None)
            rest = {key: value for key, value in one.items() if key != "status"}
            found[name] = {**rest, "metadata": {**metadata, "annotations": annotations}}
    return found


def _file(variant: str) -> Path:
    return CHART / "ci" / f"{variant}-values.yaml"


def _dig(values: Any, place: str) -> Any:
    return reduce(lambda node, key: (node or {}).get(key), place.split("."), values)
