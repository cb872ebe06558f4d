"""The committed OpenAPI document is what the server shows and does.

`RAMPART_UPDATE=1 pytest tests/serving/test_openapi.py` writes it anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from serving.openapi import openapi_document
from tests.serving.conftest import SIZE, Server, b64, encode_png

COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"


def test_the_document_is_the_committed_one() -> None:
    if os.environ.get("RAMPART_UPDATE"):
        COMMITTED.write_text(json.dumps(openapi_document(), indent=1) + "\n", encoding="utf-8")
    assert openapi_document() == json.loads(COMMITTED.read_text(encoding="utf-8"))


def test_every_reference_leads_somewhere() -> None:
    document = openapi_document()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                name = node["$ref"].removeprefix("#/components/schemas/")
                assert name in document["components"]["schemas"]
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(document)


def test_the_server_shows_it_and_answers_as_it_says(server: Server, portrait: np.ndarray) -> None:
    document = server.client.get("/openapi.json").json()
    assert document == openapi_document()
    image = {"instances": [{"image": {"b64": b64(encode_png(portrait))}}]}
    crops = {
        "inputs": [
            {"name": "images", "shape": [1, SIZE, SIZE, 3], "datatype": "UINT8", "data": [0] * SIZE**2 * 3}
        ]
    }
    bodies = {
        "/v1/models/{name}:predict": image,
        "/v1/models/{name}:explain": image,
        "/v2/models/{name}/infer": crops,
    }
    for path, item in document["paths"].items():
        for method, operation in item.items():
            address = path.replace("{name}", "tiny")
            response = server.client.request(method, address, json=bodies.get(path))
            assert response.status_code == 200, (path, response.text)
            if method == "post":
                schema = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
                required = document["components"]["schemas"][schema.rpartition("/")[2]]["required"]
                assert set(required) <= set(response.json())
            if "{name}" in path:
                unknown = server.client.request(
                    method, path.replace("{name}", "other"), json=bodies.get(path)
                )
                assert str(unknown.status_code) in operation["responses"]
