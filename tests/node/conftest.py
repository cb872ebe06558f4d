"""One real node for all its tests; they run only where they are named, as by `make node-test`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.bundles import make_models
from tests.images.containers import find_images
from tests.node.node import Node, find_node
from tests.node.site import Site, install
from tests.release.conftest import parts
from tests.serving.conftest import portrait

__all__ = ["parts", "portrait"]  # fixtures


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these tests out of a run that does not name them."""
    named = any("node" in str(argument) for argument in config.invocation_params.args)
    return None if named or collection_path.suffix != ".py" else True


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A real node with the images of Dockerfile.gpu."""
    images = find_images()
    with find_node(("serve", "train"), images) as found:
        yield found


@pytest.fixture(scope="session")
def models(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two signed bundles and who signed them."""
    return make_models(tmp_path_factory.mktemp("models"), parts, "first", "second")


@pytest.fixture(scope="session")
def site(node: Node, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """MinIO and the chart on the node."""
    return install(node, tmp_path_factory.mktemp("site"), models)
