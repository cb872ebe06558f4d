"""What :explain answers, within bounds."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dfcore.explain import REGIONS
from rampart import app
from tests.serving.conftest import SIZE, Bundle, Server, b64, encode_png


def explain(server: Server, *instances: object, **parameters: object) -> dict[str, object]:
    """Ask for explanations."""
    body = {"instances": list(instances), "parameters": parameters}
    response = server.client.post("/v1/models/tiny:explain", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_image_video_crop_and_nobody(server: Server, portrait: np.ndarray, clip: bytes) -> None:
    image = {"image": {"b64": b64(encode_png(portrait))}}
    nobody = {"image": {"b64": b64(encode_png(np.full((128, 128, 3), 127, np.uint8)))}}
    found = explain(server, image, {"video": {"b64": b64(clip)}}, nobody)["explanations"]
    face, video, empty = found
    assert empty["outcome"] == "no_face"
    assert empty["cam"] is None
    assert face["score"] == pytest.approx(server.predict(image).json()["predictions"][0]["score"], abs=1e-4)
    assert face["box"] == pytest.approx(server.predict(image).json()["predictions"][0]["faces"][0]["box"])
    overlay = Image.open(io.BytesIO(base64.b64decode(face["cam"]["png"])))
    assert (overlay.format, overlay.size) == ("PNG", (SIZE, SIZE))
    grid = np.array(face["cam"]["grid"])
    assert grid.shape == (32, 32)
    assert 0 <= grid.min() <= grid.max() <= 1
    assert set(face["regions"]) == set(REGIONS)
    assert sum(part["area"] for part in face["regions"].values()) == pytest.approx(1, abs=1e-3)
    assert len(face["frequency"]["response"]) == len(face["frequency"]["edges"]) - 1 == 16
    assert video["frame_index"] is not None
    assert face["frame_index"] is None


def test_crops_and_parameters(server: Server) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).tolist()
    (found,) = explain(server, {"crop": crop}, target="decision", frequency=False)["explanations"]
    assert (found["target"], found["frequency"], found["box"]) == ("decision", None, None)
    assert all(part["energy"] is None for part in found["regions"].values())  # no landmarks
    (answer,) = server.predict({"crop": crop}).json()["predictions"]
    assert found["score"] == pytest.approx(answer["score"], abs=1e-4)


def test_what_does_not_fit_is_a_400(server: Server) -> None:
    small = np.zeros((8, 8, 3), int).tolist()
    for body, named in (
        ({"instances": [{"crop": small}]}, f"{SIZE}, {SIZE}, 3"),
        ({"instances": [{"crop": small}], "parameters": {"target": "real"}}, "target"),
        ({"instances": [{"crop": small}], "parameters": {"targets": 1}}, "did you mean 'target'"),
        ({"instances": [{"crop": small}], "parameters": 3}, "parameters"),
        ({"instances": [{"image": {"b64": "AAAA"}}] * 5}, "4"),
        ({"instances": [{"image": {"b64": "AAAA"}}]}, "instances[0].image"),
    ):
        response = server.client.post("/v1/models/tiny:explain", json=body)
        assert response.status_code == 400, response.text
        assert named in response.json()["error"]


def test_request_headers_do_not_come_back(server: Server) -> None:
    headers = {"authorization": "Bearer secret", "x-mine": "secret"}
    response = server.client.post("/v1/models/tiny:explain", json={"instances": []}, headers=headers)
    assert "secret" not in str(response.headers)


def test_the_command_line_writes_it_to_files(bundle: Bundle, portrait: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "face.png").write_bytes(encode_png(portrait))
    (tmp_path / "wall.png").write_bytes(encode_png(np.full((128, 128, 3), 127, np.uint8)))
    arguments = [
        "predict", str(tmp_path / "face.png"), str(tmp_path / "wall.png"), "--model", str(bundle.folder),
        "--public-key", str(bundle.public_key), "--explain", str(tmp_path / "out"), "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    face, wall = json.loads(done.stdout)
    assert face["explanation"] == str(tmp_path / "out" / "000-face.json")
    assert "explanation" not in wall
    document = json.loads(Path(face["explanation"]).read_text(encoding="utf-8"))
    assert document["cam"].keys() == {"grid"}
    assert set(document["regions"]) == set(REGIONS)
    with Image.open(tmp_path / "out" / "000-face.png") as overlay:
        assert overlay.size == (SIZE, SIZE)
