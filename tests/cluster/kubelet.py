"""A container's command as a process of this machine, with what a kubelet would give to it."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.cluster.control_plane import ControlPlane, Done

__all__ = ["Pod"]


class Pod(NamedTuple):
    """A pod whose volumes lie below a folder; KWOK's own pods run nothing."""

    plane: ControlPlane
    namespace: str
    spec: dict[str, Any]
    folder: Path

    def mount(self) -> None:
        """Fill the volumes from the cluster's Secrets and ConfigMaps, and ask for tokens."""
        for volume in self.spec["volumes"]:
            folder = self.folder / volume["name"]
            folder.mkdir(parents=True)
            if "secret" in volume:
                self._write(folder, "secret", volume["secret"]["secretName"])
            elif "configMap" in volume:
                self._write(folder, "configmap", volume["configMap"]["name"])
            for source in volume.get("projected", {}).get("sources", ()):
                if "configMap" in source:
                    self._write(folder, "configmap", source["configMap"]["name"])
                else:
                    asked = source["serviceAccountToken"]
                    (folder / asked["path"]).write_text(self._token(asked), encoding="utf-8")

    def run(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> Done:
        """Run a container's command, or another in its place, with its variables alone, in its memory."""
        both = [*self.spec.get("initContainers", ()), *self.spec["containers"]]
        (container,) = (one for one in both if one["name"] == name)
        given = command or [*container["command"], *container.get("args", ())]
        values = {item["name"]: self._local(container, item["value"]) for item in container.get("env", ())}
        values |= {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": self.plane.environment["APIPORT"],
            # where the image has its programs
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **{key: self._local(container, value) for key, value in (environment or {}).items()},
        }
        arguments = [self._local(container, part) for part in given]
        limit = container["resources"]["limits"]["memory"]
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(arguments, env=values, stdout=out, stderr=err, cwd=self.folder)
            peak = _peak(process)
            assert peak < _kibibytes(limit), f"{name} would be killed: {peak} KiB of {limit}"
            texts = [(stream.seek(0), stream.read())[1] for stream in (out, err)]
        return Done(arguments, process.returncode, *texts)

    def _local(self, container: Mapping[str, Any], text: str) -> str:
        """Return a path inside the container as one of this machine."""
        for mount in container["volumeMounts"]:
            path = mount["mountPath"]
            if text == path or text.startswith(f"{path}/"):
                return f"{self.folder / mount['name']}{text.removeprefix(path)}"
        return text

    def _write(self, folder: Path, kind: str, name: str) -> None:
        found = self.plane.read("-n", self.namespace, kind, name)
        for key, value in found.get("data", {}).items():
            data = base64.b64decode(value) if kind == "secret" else value.encode()
            (folder / key).write_bytes(data)

    def _token(self, asked: Mapping[str, Any]) -> str:
        options = [f"--duration={asked['expirationSeconds']}s"]
        options += [f"--audience={asked['audience']}"] if "audience" in asked else []
        account = self.spec["serviceAccountName"]
        return self.plane.kubectl("-n", self.namespace, "create", "token", account, *options).strip()


def _peak(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process; return the most memory that it took, in KiB."""
    peak, deadline = 0, time.monotonic() + 120
    try:
        while process.poll() is None:
            # not rusage, in which a child begins with its parent's
            text = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            peak = max(peak, *map(int, re.findall(r"VmHWM:\s+(\d+)", text)), 0)
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return peak


def _kibibytes(quantity: str) -> int:
    return int(quantity[:-2]) * {"Ki": 1, "Mi": 2**10, "Gi": 2**20}[quantity[-2:]]
