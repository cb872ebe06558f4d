"""A real Kubernetes control plane on loopback, where `tests/cluster/install.sh` has built one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from kubernetes import client, config

from rollout import Cluster

__all__ = ["ControlPlane", "Done", "install_crds", "run_control_plane", "start_kserve", "start_trainer"]

Done = subprocess.CompletedProcess[str]

_HERE = Path(__file__).parent
_NEEDED = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok",
    "kserve-manager", "helm",
)  # fmt: skip
_SHARED = (
    "crds/gateway-api", "crds/prometheus-operator", "chart-crds/keda", "kserve", "kwok-stages",
)  # fmt: skip
_PORTS = (
    "APIPORT", "ETCDPORT", "PEERPORT", "KCMPORT", "KSPORT", "KWOKPORT", "WHPORT", "METPORT", "HPORT", "JPORT",
    "JH", "TPORT", "TH",
)  # fmt: skip


class ControlPlane(NamedTuple):
    """One that runs: its folder, its administrator's kubeconfig, and what its scripts are told."""

    folder: Path
    kubeconfig: Path
    environment: dict[str, str]

    def ask(self, *arguments: str, given: str | None = None, program: str = "kubectl") -> Done:
        """Run kubectl, or helm, as the administrator; it may fail."""
        # they keep nothing of this machine's user, nor for it
        own = ("KUBECACHEDIR", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        places = {name: str(self.folder / "cache" / name) for name in own}
        command = [str(_home() / "bin" / program), "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(
            command, input=given, capture_output=True, text=True, check=False, timeout=120,
            env=self.environment | places,
        )  # fmt: skip

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Run kubectl as the administrator and return what it says."""
        done = self.ask(*arguments, given=given)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def apply(self, *documents: dict[str, Any]) -> None:
        """Apply objects."""
        self.kubectl("apply", "--server-side", "-f", "-", given=yaml.safe_dump_all(documents))

    def read(self, *arguments: str) -> Any:
        """Return what `kubectl get` finds: an object, or the objects of a list."""
        found = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found["items"] if found["kind"].endswith("List") else found

    def connect(self, namespace: str, account: str | None = None) -> Cluster:
        """Connect a rollout as the administrator, or with a ServiceAccount's own token ("NAMESPACE/NAME")."""
        settings = client.Configuration()
        config.load_kube_config(str(self.kubeconfig), client_configuration=settings)
        if account is not None:
            place, _, name = account.partition("/")
            token = self.kubectl("-n", place, "create", "token", name)
            settings.api_key = {"authorization": f"Bearer {token.strip()}"}
            settings.refresh_api_key_hook = None  # it would read the administrator's again
        return Cluster(client.ApiClient(settings), namespace)


def _home() -> Path:
    return Path(os.environ.get("RAMPART_CLUSTER", "~/.cache/rampart-cluster")).expanduser()


def _free_ports(names: Sequence[str]) -> dict[str, str]:
    probes = [socket.socket() for _ in names]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return {name: str(probe.getsockname()[1]) for name, probe in zip(names, probes, strict=True)}
    finally:
        for probe in probes:
            probe.close()


@contextmanager
def run_control_plane(folder: Path, **settings: str) -> Iterator[ControlPlane]:
    """Run etcd, API server, controllers, scheduler, two fake GPU nodes; skip where none is built.

    Args:
        folder: for state and logs.
        settings: variables of up.sh, such as NODES.
    """
    missing = [name for name in _NEEDED if not (_home() / "bin" / name).is_file()]
    missing += [name for name in _SHARED if not (_home() / "share" / name).is_dir()]
    if missing:
        pytest.skip(
            f"real Kubernetes: {', '.join(missing)} not built; run tests/cluster/install.sh helm k8s kwok "
            "kserve crds (needs Go, 20 minutes)"
        )
    ports = _free_ports(_PORTS)
    environment = {**os.environ, **ports, "RUN": str(folder), "PY": sys.executable, **settings}
    try:
        _script("up.sh", environment)
        yield ControlPlane(folder, folder / "admin.kubeconfig", environment)
    finally:
        _script("down.sh", environment)


def install_crds(plane: ControlPlane, *patterns: str) -> None:
    """Add CRDs by the names of their files."""
    files = [path for pattern in patterns for path in sorted((_home() / "share").glob(pattern))]
    plane.kubectl("apply", "--server-side", *(part for path in files for part in ("-f", str(path))))


def start_kserve(plane: ControlPlane) -> None:
    """Add the Gateway API's CRDs, KServe's, and KServe's own controller."""
    install_crds(plane, "crds/gateway-api/*httproutes.yaml", "crds/gateway-api/*gateways.yaml")
    _script("kserve-up.sh", plane.environment)


def start_trainer(plane: ControlPlane) -> None:
    """Add JobSet and Kubeflow Trainer with their controllers."""
    if not (_home() / "bin" / "trainer-manager").is_file():
        pytest.skip("real Trainer: not built; run tests/cluster/install.sh trainer (needs Go, 5 minutes)")
    _script("trainer-up.sh", plane.environment)


def _script(name: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", str(_HERE / name)], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
