"""One control plane for all cluster tests, and a namespace for each.

They run only where they are named, as by `make cluster-test`: building it all takes twenty minutes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane, run_control_plane, start_kserve

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


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    """A namespace in which Pod Security `restricted` is enforced."""
    name = f"test-{next(_numbers)}"
    plane.kubectl("create", "namespace", name)
    plane.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")
