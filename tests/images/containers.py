"""Images of Dockerfile.gpu, and containers that have no rights: buildah, podman and runc by `images.sh`."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

__all__ = ["Container", "Done", "Images", "budgets", "find_images"]

Done = subprocess.CompletedProcess[str]

_SCRIPT = Path(__file__).parent / "images.sh"
_DOCUMENT = Path(__file__).parents[2] / "docs" / "images.md"
_PROGRAMS = ("buildah", "podman", "runc", "debootstrap")
# A pod of the chart: no root, no capability, nothing writable but what is mounted.
_WITHOUT_RIGHTS = (
    "--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "--security-opt", "no-new-privileges",
    "--network", "none", "--pids-limit", "500",
)  # fmt: skip
_TMP = "/tmp:rw,nosuid,nodev,mode=1777,size=2g"  # noqa: S108  # the container's


class Images(NamedTuple):
    """The store of images, below RAMPART_CLUSTER."""

    script: Path

    def build(self, target: str, backend: str = "") -> str:
        """Build a stage and return the image's name; layers that are there are not built again."""
        name = f"rampart-{target}{'-' * bool(backend)}{backend}:test"
        self._run("base", seconds=900)
        self._run("build", target, name, seconds=3000, TORCH_BACKEND=backend)
        return f"localhost/{name}"

    def export(self, name: str, archive: Path) -> None:
        """Write an image for `ctr images import`."""
        self._run("export", name.removeprefix("localhost/"), str(archive), seconds=900)

    def podman(self, *arguments: str, seconds: float = 120, check: bool = True) -> Done:
        """Run podman."""
        return self._run("podman", *arguments, seconds=seconds, check=check)

    def inspect(self, name: str) -> Any:
        """Return what podman knows of an image or a container."""
        return json.loads(self.podman("inspect", name).stdout)[0]

    def layers(self, name: str) -> list[tuple[str, float]]:
        """Return what made each layer that holds files, and its size in MB, from the base up."""
        said = self.podman("history", "--no-trunc", "--format", "json", name).stdout
        return [
            (layer["CreatedBy"], layer["size"] / 1e6) for layer in reversed(json.loads(said)) if layer["size"]
        ]

    def run(self, name: str, *command: str, mounts: tuple[str, ...] = (), seconds: float = 300) -> Done:
        """Run a command in a container without rights, to its end; it may fail."""
        options = [part for mount in mounts for part in ("--volume", mount)]
        memory = ("--memory", "3g", "--memory-swap", "3g", "--tmpfs", _TMP)
        return self.podman(
            "run", "--rm", "--no-healthcheck", "--entrypoint", "[]", *_WITHOUT_RIGHTS, *memory, *options,
            name, *command, seconds=seconds, check=False,
        )  # fmt: skip

    @contextmanager
    def start(self, name: str, *arguments: str, mounts: tuple[str, ...], memory: str) -> Iterator[Container]:
        """Run an image by its own entrypoint, in the background."""
        label = f"rampart-test-{uuid.uuid4().hex[:8]}"
        options = [part for mount in mounts for part in ("--volume", mount)]
        limits = ("--memory", memory, "--memory-swap", memory, "--tmpfs", _TMP)
        self.podman("run", "--detach", "--name", label, *_WITHOUT_RIGHTS, *limits, *options, name, *arguments)
        try:
            yield Container(self, label, self.inspect(label)["State"]["Pid"])
        finally:
            self.podman("rm", "--force", "--time", "5", label, check=False)

    def _run(self, *arguments: str, seconds: float, check: bool = True, **variables: str) -> Done:
        done = subprocess.run(
            ["bash", str(self.script), *arguments], capture_output=True, text=True, check=False,
            timeout=seconds, env=os.environ | variables,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{' '.join(arguments[:3])}: {done.stdout}{done.stderr}"
        return done


class Container(NamedTuple):
    """One that runs."""

    images: Images
    name: str
    pid: int

    def log(self) -> str:
        """Return what it wrote."""
        done = self.images.podman("logs", self.name)
        return done.stdout + done.stderr

    def curl(self, *arguments: str) -> Done:
        """Ask it from inside its network, which has nothing but a loopback interface."""
        command = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "curl", "-sS", "--max-time", "60", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)

    def healthy(self) -> bool:
        """Run the image's own HEALTHCHECK."""
        return self.images.podman("healthcheck", "run", self.name, check=False).returncode == 0

    def wait(self, url: str, seconds: float = 120) -> None:
        """Wait until an address answers with 200."""
        deadline = time.monotonic() + seconds
        while self.curl("--fail", "-o", os.devnull, url).returncode:
            running = self.images.inspect(self.name)["State"]["Running"]
            if time.monotonic() > deadline or not running:
                pytest.fail(f"{url} does not answer: {self.log()[-3000:]}")
            time.sleep(0.5)


@functools.cache
def find_images() -> Images:
    """Return the store; skip the test by name where nothing can be built."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"real images: {', '.join(missing)} missing; run tests/images/images.sh deps")
    if os.geteuid() != 0:
        pytest.skip("real images: debootstrap and buildah's chroot need root")
    return Images(_SCRIPT)


def budgets() -> dict[str, float]:
    """Return the GB that each image may have, by docs/images.md."""
    text = _DOCUMENT.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`(?:, `TORCH_BACKEND=(cpu)`)? \|.*\| ([\d.]+) GB \|$", text, re.MULTILINE)
    return {f"{target}{'-' * bool(backend)}{backend}": float(size) for target, backend, size in rows}
