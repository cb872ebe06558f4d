"""A real Kubernetes control plane on loopback, where `tests/cluster/install.sh` has built one."""

from __future__ import annotations

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

__all__ = ["ControlPlane", "run_control_plane", "start_kserve", "start_trainer"]

_HERE = Path(__file__).parent
_NEEDED = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok",
    "kserve-manager", "helm",
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

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Run kubectl as the administrator and return what it says."""
        command = [str(_home() / "bin" / "kubectl"), "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def apply(self, *documents: dict[str, Any]) -> None:
        """Apply objects."""
        self.kubectl("apply", "--server-side", "-f", "-", given=yaml.safe_dump_all(documents))


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
def run_control_plane(folder: Path) -> Iterator[ControlPlane]:
    """Run etcd, API server, controllers, scheduler, two fake GPU nodes; skip where none is built."""
    missing = [name for name in _NEEDED if not (_home() / "bin" / name).is_file()]
    if missing:
        pytest.skip(
            f"real Kubernetes: {', '.join(missing)} not built; run tests/cluster/install.sh helm k8s kwok "
            "kserve crds (needs Go, 20 minutes)"
        )
    ports = _free_ports(_PORTS)
    environment = {**os.environ, **ports, "RUN": str(folder), "PY": sys.executable}
    try:
        _script("up.sh", environment)
        yield ControlPlane(folder, folder / "admin.kubeconfig", environment)
    finally:
        _script("down.sh", environment)


def start_kserve(plane: ControlPlane) -> None:
    """Add the Gateway API's CRDs, KServe's, and KServe's own controller."""
    plane.kubectl("apply", "--server-side", "-f", str(_home() / "share" / "crds" / "gateway-api"))
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
