"""Images built for real from Dockerfile.gpu.

These tests run only where they are named, as by `pytest tests/images`: the first build takes ten minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.images.containers import Images, find_images


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these tests out of a run that does not name them."""
    named = any("images" in str(argument) for argument in config.invocation_params.args)
    return None if named or collection_path.suffix != ".py" else True


@pytest.fixture(scope="session")
def images() -> Images:
    """What builds and runs images; tests are skipped by name where it can't."""
    return find_images()
