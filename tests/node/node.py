"""One real Kubernetes node, where `tests/node/install.sh` has built what it takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.images.containers import Images
from tests.node.scratch_image import write_image

__all__ = ["Done", "Node", "find_node", "start_kserve", "until"]

Done = subprocess.CompletedProcess[str]

_SCRIPT = Path(__file__).parent / "node.sh"
_CLUSTER = Path(__file__).parents[1] / "cluster"
_BUILT = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet", "kube-proxy",
    "helm", "kserve-manager", "minio", "prometheus",
)  # fmt: skip
_PACKAGED = ("containerd", "ctr", "runc", "iptables", "conntrack", "nsenter", "ip", "curl", "openssl")


class Node(NamedTuple):
    """One that runs, in namespaces of its own."""

    home: Path

    def script(self, *arguments: str, seconds: float = 600) -> None:
        """Run node.sh."""
        done = subprocess.run(
            ["bash", str(_SCRIPT), *arguments], capture_output=True, text=True, check=False, timeout=seconds
        )
        assert done.returncode == 0, f"node.sh {arguments[0]}: {done.stdout}{done.stderr}"

    def ask(self, *command: str, given: str | None = None, seconds: float = 120, **variables: str) -> Done:
        """Run a command in the node's network; it may fail."""
        return subprocess.run(
            ["bash", str(_SCRIPT), "net", *command], input=given, capture_output=True, text=True, check=False,
            timeout=seconds, env=self.environment() | variables,
        )  # fmt: skip

    def begin(self, *command: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a command in the node's network."""
        with log.open("wb") as stream:
            return subprocess.Popen(
                ["bash", str(_SCRIPT), "net", *command], stdin=subprocess.PIPE, stdout=stream,
                stderr=subprocess.STDOUT, env=self.environment(),
            )  # fmt: skip

    def environment(self) -> dict[str, str]:
        """Return what commands see; Helm keeps nothing of this machine's user, nor for it."""
        places = {f"HELM_{name}_HOME": str(self.home / "helm") for name in ("CACHE", "CONFIG", "DATA")}
        path = f"{_home() / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, **places, "KUBECONFIG": str(self.home / "admin.kubeconfig"), "PATH": path}

    def kubectl(self, *arguments: str, given: str | None = None, seconds: float = 120) -> str:
        """Run kubectl as the administrator and return what it says."""
        done = self.ask("kubectl", *arguments, given=given, seconds=seconds)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def apply(self, *documents: dict[str, Any]) -> None:
        """Apply objects."""
        self.kubectl("apply", "--server-side", "-f", "-", given=yaml.safe_dump_all(documents))

    def read(self, *arguments: str) -> Any:
        """Return what `kubectl get` finds: an object, or the objects of a list."""
        found = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found["items"] if found["kind"].endswith("List") else found


def _home() -> Path:
    return Path(os.environ.get("RAMPART_CLUSTER", "~/.cache/rampart-cluster")).expanduser()


def start_kserve(node: Node) -> None:
    """Add the Gateway API's CRDs, KServe's, and KServe's own controller, which node.sh stops."""
    shared = _home() / "share" / "crds" / "gateway-api"
    files = [path for name in ("httproutes", "gateways") for path in sorted(shared.glob(f"*{name}.yaml"))]
    node.kubectl("apply", "--server-side", *(part for path in files for part in ("-f", str(path))))
    done = node.ask(
        "bash", str(_CLUSTER / "kserve-up.sh"), seconds=300, RUN=str(node.home), PY=sys.executable
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def until(holds: Callable[[], object], why: Callable[[], object] = lambda: "", seconds: float = 120) -> None:
    """Wait."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, why()
        time.sleep(0.5)


@contextmanager
def find_node(targets: Sequence[str], images: Images) -> Iterator[Node]:
    """Run a node with images of Dockerfile.gpu, MinIO's and pause; skip the test by name where it can't."""
    missing = [name for name in _BUILT if not (_home() / "bin" / name).is_file()]
    missing += [name for name in _PACKAGED if shutil.which(name) is None]
    if missing:
        pytest.skip(
            f"real node: {', '.join(missing)} missing; run tests/cluster/install.sh helm k8s crds kserve "
            "minio prom and tests/node/install.sh"
        )
    if os.geteuid() != 0 or not Path("/sys/fs/cgroup/memory").is_dir():
        pytest.skip("real node: needs root and cgroups of version 1")
    names = [images.build(target) for target in targets]
    node = Node(Path(os.environ.get("RAMPART_NODE", _home() / "node")))
    node.script("up")
    try:
        archive = node.home / "image.tar"
        write_image("localhost/rampart-minio:test", archive, {"/minio": _home() / "bin" / "minio"}, "/minio")
        node.script("import", str(archive))
        for name in names:
            images.export(name, archive)
            node.script("import", str(archive), seconds=900)
            archive.unlink()
        yield node
    finally:
        node.script("down")
