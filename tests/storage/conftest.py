from __future__ import annotations

from pathlib import Path

import pytest

from dfcore.storage import ObjectStore, open_store


@pytest.fixture(params=["file", "s3", "minio"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return (tmp_path / "store").as_uri()
    return f"{request.getfixturevalue(f'{request.param}_server')}/some/prefix"


@pytest.fixture
def store(store_uri: str) -> ObjectStore:
    return open_store(store_uri)
