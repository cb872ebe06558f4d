"""What `docs/first-promotion.md` sets up, on a real node: MinIO, the chart, keys, and models to publish."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.charts.tools import CHART
from tests.node.node import Done, Node, until

__all__ = ["NAMESPACE", "Site", "install"]

NAMESPACE = "rampart"
_STORE = "s3://rampart/registry"
_ROOT = {"AWS_ACCESS_KEY_ID": "rampart-admin", "AWS_SECRET_ACCESS_KEY": "s3cret-of-the-admin"}
_SMALL = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}
_ALTER = """
import sys
import boto3
url, folder, name = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
keys = [one["Key"] for one in s3.list_objects_v2(Bucket="rampart")["Contents"]]
found = [key for key in keys if folder in key and key.endswith("/" + name)]
for key in found:
    body = bytearray(s3.get_object(Bucket="rampart", Key=key)["Body"].read())
    body[-1] ^= 1
    s3.put_object(Bucket="rampart", Key=key, Body=bytes(body))
print(len(found))
"""


class Site(NamedTuple):
    """A release on a node."""

    node: Node
    folder: Path
    models: Path
    minio: str

    def helm(self, verb: str, values: dict[str, Any]) -> None:
        """Install or upgrade the release."""
        file = self.folder / "values.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        done = self.node.ask("helm", verb, "rampart", str(CHART), "-n", NAMESPACE, "--values", str(file))
        assert done.returncode == 0, done.stderr

    def values(self, **more: Any) -> dict[str, Any]:
        """Return the chart's values: one server that follows the channel, exporter, MinIO."""
        return {
            "image": {"repository": "localhost/rampart-serve", "tag": "test"},
            "store": {"uri": _STORE, "endpoint": self.minio, "existingSecret": "rampart-reader"},
            "trust": {"existingConfigMap": "rampart-trust"},
            "serving": {
                "replicas": 1, "resources": _SMALL, "drainSeconds": 5,
                "settings": {"reload_seconds": 2, "threads": 1},
            },
            "minio": {
                "enabled": True, "image": "localhost/rampart-minio:test", "existingSecret": "minio-root",
                "storageSize": "1Gi", "storageClassName": "by-hand",
            },
            **more,
        }  # fmt: skip

    def pods(self, component: str) -> list[Any]:
        """Return the pods of a component that are not on their way out."""
        found = self.node.read("-n", NAMESPACE, "pods", "-l", f"app.kubernetes.io/component={component}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def service(self, name: str) -> str:
        """Return a Service's address."""
        spec = self.node.read("-n", NAMESPACE, "service", name)["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def log(self, pod: str) -> str:
        """Return what a pod wrote."""
        done = self.node.ask("kubectl", "-n", NAMESPACE, "logs", pod, "--all-containers", "--tail=60")
        return done.stdout + done.stderr

    def registry(self, *arguments: str) -> Done:
        """Run `rampart registry` with the writer's keys, as the Job made them."""
        secret = self.node.read("-n", NAMESPACE, "secret", "rampart-writer")["data"]
        keys = {key: base64.b64decode(value).decode() for key, value in secret.items()}
        keys |= {"RAMPART_REGISTRY": _STORE, "RAMPART_CACHE": str(self.folder / "cache")}
        done = self.node.ask("rampart", "registry", *arguments, **keys)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def publish(self, note: str) -> str:
        """Publish a bundle and return its version."""
        trust = ("--public-key", str(self.models / "rampart.pub"), "--json")
        done = self.registry("publish", "deepfake", str(self.models / note), *trust)
        return str(json.loads(done.stdout)["version"])

    def promote(self, version: str) -> None:
        """Let production point at a version."""
        self.registry("promote", "deepfake", version, "--why", "test")

    def alter(self, folder: str, name: str) -> None:
        """Turn a bit of a published file with the administrator's keys; a second time turns it back."""
        done = self.node.ask("python", "-c", _ALTER, self.minio, folder, name, **_ROOT)
        assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def install(node: Node, folder: Path, models: Path) -> Site:
    """Install MinIO by the chart, then the whole chart, whose Job makes buckets, users and Secrets."""
    disk = folder / "disk"
    disk.mkdir()
    os.chown(disk, 65532, 65532)
    for parent in disk.parents:
        parent.chmod(parent.stat().st_mode | 0o055)
    node.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        }},
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "by-hand"}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand",
            "hostPath": {"path": str(disk)},
        }},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _named("rampart-trust"), "data": {
            "rampart.pub": (models / "rampart.pub").read_text(encoding="utf-8"),
        }},
        _secret("minio-admin", _ROOT),
        _secret("minio-root", {
            "MINIO_ROOT_USER": _ROOT["AWS_ACCESS_KEY_ID"],
            "MINIO_ROOT_PASSWORD": _ROOT["AWS_SECRET_ACCESS_KEY"], "MINIO_CI_CD": "1",
        }),
    )  # fmt: skip
    site = Site(node, folder, models, "")
    alone = site.values(store={"uri": _STORE}, serving={"mode": "none"}, exporter={"enabled": False})
    site.helm("install", alone)
    node.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/rampart-minio", "--timeout=90s")
    site = site._replace(minio=site.service("rampart-minio"))  # by address: the node has no DNS
    job = {"enabled": True, "image": "localhost/rampart-train:test", "adminSecret": "minio-admin"}
    site.helm("upgrade", site.values(registryInit=job))
    until(
        lambda: "rampart-writer" in node.kubectl("-n", NAMESPACE, "get", "secrets"),
        lambda: [site.log(pod["metadata"]["name"]) for pod in site.pods("registry-init")],
    )
    return site


def _secret(name: str, values: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": _named(name), "stringData": values}


def _named(name: str) -> dict[str, str]:
    return {"name": name, "namespace": NAMESPACE}
