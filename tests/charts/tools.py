"""Helm, promtool and Prometheus for tests, where `tests/cluster/install.sh` has built them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "rampart"
VARIANTS = sorted(path.stem.removesuffix("-values") for path in (CHART / "ci").glob("*-values.yaml"))
APIS = (
    "serving.kserve.io/v1alpha1", "serving.kserve.io/v1beta1", "serving.knative.dev/v1",
    "monitoring.coreos.com/v1", "keda.sh/v1alpha1",
)  # fmt: skip
NAMESPACE = "ns"
KUBERNETES = ("1.34.4", "1.35.4", "1.36.3")  # as in tests/cluster/install.sh


def home() -> Path:
    """Return where programs and schemas are kept."""
    return Path(os.environ.get("RAMPART_CLUSTER", "~/.cache/rampart-cluster")).expanduser()


def find(program: str) -> str:
    """Return a program; skip the test by name where there is none."""
    # ours first: another version on PATH may understand less
    found = shutil.which(program, path=str(home() / "bin")) or shutil.which(program)
    if found is None:
        pytest.skip(f"{program}: not built; run tests/cluster/install.sh helm prom (needs Go, 3 minutes)")
    return found


def run(command: Sequence[str | Path], **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program; what it says is the failure."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=120, **more
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done


def render(
    variant: str | None = None,
    *assignments: str,
    version: str = KUBERNETES[-1],
    values: Path | None = None,
    release: str = "rampart",
) -> list[dict[str, Any]]:
    """Return the objects of an install variant, or of a file with values."""
    command = [find("helm"), "template", release, str(CHART), "--namespace", NAMESPACE]
    command += [part for api in APIS for part in ("--api-versions", api)]
    command += ["--kube-version", version]
    if variant is not None:
        values = CHART / "ci" / f"{variant}-values.yaml"
    command += ["--values", str(values)] if values is not None else []
    command += [part for assignment in assignments for part in ("--set", assignment)]
    text = run(command).stdout
    return [document for document in yaml.safe_load_all(text) if document]


def validate(folder: Path, version: str = KUBERNETES[-1]) -> dict[str, int]:
    """Compare manifests with the schemas of a Kubernetes version; return how many fit, by kubeconform."""
    schemas = home() / "share" / "schemas" / version
    if not schemas.is_dir():
        pytest.skip("Kubernetes' schemas: not made; run tests/cluster/install.sh schemas (needs Go)")
    location = f"{schemas}/{{{{.Group}}}}/{{{{.ResourceKind}}}}_{{{{.ResourceAPIVersion}}}}.json"
    options = ["-strict", "-summary", "-output", "json", "-schema-location", location]
    summary: dict[str, int] = json.loads(run([find("kubeconform"), *options, folder]).stdout)["summary"]
    return summary


def write_rules(path: Path, *assignments: str) -> list[dict[str, Any]]:
    """Write the chart's rules as a file for Prometheus; return their groups."""
    found = render(None, "monitoring.rules.enabled=true", *assignments)
    groups = [group for one in found if one["kind"] == "PrometheusRule" for group in one["spec"]["groups"]]
    path.write_text(yaml.safe_dump({"groups": groups}, sort_keys=False), encoding="utf-8")
    return groups


def flat(node: Any, place: str = "") -> dict[str, Any]:
    """Return leaves by their place; what has a name is found by it, so that its order does not matter."""
    if isinstance(node, list) and node and all(isinstance(item, dict) and "name" in item for item in node):
        node = {item["name"]: item for item in node}
    if not isinstance(node, dict) or not node:
        return {place: node}
    return {
        leaf: value
        for key, item in node.items()
        for leaf, value in flat(item, f"{place}.{key}" if place else key).items()
    }
