"""One control plane for all cluster tests, and a namespace for each.

They run only where they are named, as by `make cluster-test`: building it all takes twenty minutes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.control_plane import (
    ControlPlane,
    install_crds,
    run_control_plane,
    start_kserve,
    start_trainer,
)
from tests.cluster.release import Release

_numbers = itertools.count(1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these tests out of a run that does not name them."""
    named = any("cluster" in str(argument) for argument in config.invocation_params.args)
    return None if named or collection_path.suffix != ".py" else True


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real control plane with fake GPU nodes; tests are skipped by name where none was built."""
    with run_control_plane(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(scope="session")
def kserve(plane: ControlPlane) -> ControlPlane:
    """The same with the real KServe controller, in Standard mode."""
    start_kserve(plane)
    return plane


@pytest.fixture(scope="session")
def trainer(plane: ControlPlane) -> ControlPlane:
    """With the real JobSet and Trainer controllers."""
    start_trainer(plane)
    return plane


@pytest.fixture(scope="session")
def equipped(kserve: ControlPlane) -> ControlPlane:
    """With all CRDs that the chart makes objects of: prometheus-operator's and KEDA's too."""
    monitoring = "crds/prometheus-operator/*{}.yaml"
    install_crds(
        kserve,
        *map(monitoring.format, ("podmonitors", "prometheusrules")),
        "chart-crds/keda/*scaledobjects.yaml",
    )
    kserve.apply({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "production"}, "value": 1000,
    })  # fmt: skip
    return kserve


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A second control plane, without nodes and without any CRD."""
    with run_control_plane(tmp_path_factory.mktemp("bare"), NODES="0") as found:
        yield found


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    """A namespace in which Pod Security `restricted` is enforced."""
    yield from _namespace(plane)


@pytest.fixture
def release(equipped: ControlPlane, namespace: str) -> Release:
    """A release of the chart that is not installed yet, in a namespace of its own."""
    return Release(equipped, namespace)


@pytest.fixture
def bare_release(bare: ControlPlane) -> Iterator[Release]:
    """The same on the cluster without CRDs."""
    for name in _namespace(bare):
        yield Release(bare, name)


def _namespace(plane: ControlPlane) -> Iterator[str]:
    name = f"test-{next(_numbers)}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    # Helm looks for it to see whether it asks a cluster
    plane.kubectl("-n", name, "wait", "--for=create", "serviceaccount/default", "--timeout=30s")
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")
