"""Every kind of bad input has its status and its reason, and delays nobody after it."""

from __future__ import annotations

import json
import time

import httpx
import numpy as np
import pytest

from tests.serving.conftest import SIZE, Server, b64, encode_png
from tests.serving.hostile import bad_images, bad_videos

PREDICT, INFER = "/v1/models/tiny:predict", "/v2/models/tiny/infer"
PIXELS = SIZE * SIZE * 3
CROP = {"name": "images", "shape": [1, SIZE, SIZE, 3], "datatype": "UINT8"}
USUAL = 3.0  # times the median of good requests
SLACK_SECONDS = 0.5


def instances(*items: object) -> bytes:
    return json.dumps({"instances": list(items)}).encode()


def tensor(**changes: object) -> bytes:
    return json.dumps({"inputs": [{**CROP, "data": [0] * PIXELS, **changes}]}).encode()


def binary(raw: bytes, **changes: object) -> tuple[bytes, dict[str, str]]:
    head = json.dumps(
        {"inputs": [{**CROP, "parameters": {"binary_data_size": len(raw)}, **changes}]}
    ).encode()
    return head + raw, {"inference-header-content-length": str(len(head))}


NANS = binary(np.full((1, SIZE, SIZE, 3), np.nan, np.float32).tobytes(), datatype="FP32")
CASES: dict[str, tuple[str, bytes, dict[str, str], int, str]] = {
    "not JSON": (PREDICT, b"{", {}, 400, "not_json"),
    "not JSON in V2": (INFER, b"{", {}, 400, "not_json"),
    "no instances": (PREDICT, b'{"inputs": 1}', {}, 400, "malformed"),
    "no tensor": (INFER, b'{"inputs": [{"name": "images"}]}', {}, 400, "malformed"),
    "another tensor": (INFER, tensor(name="pixels"), {}, 400, "malformed"),
    "wrong shape": (INFER, tensor(shape=[1, SIZE, SIZE, 4]), {}, 400, "shape"),
    "wrong size": (INFER, tensor(shape=[1, 8, 8, 3], data=[0] * 192), {}, 400, "shape"),
    "ragged": (PREDICT, instances({"crop": [[1, 2], [3]]}), {}, 400, "shape"),
    "wrong dtype": (INFER, tensor(datatype="FP32"), {}, 400, "dtype"),
    "wrong numbers": (INFER, tensor(data=[0.5] * PIXELS), {}, 400, "dtype"),
    "NaN tensor": (INFER, *NANS, 400, "dtype"),
    "NaN in JSON": (PREDICT, b'{"instances": [{"crop": [[[NaN, 0, 0]]]}]}', {}, 400, "not_json"),
    "bad base64": (PREDICT, instances({"image": {"b64": "%"}}), {}, 400, "base64"),
    "0 bytes": (PREDICT, instances({"image": {"b64": ""}}), {}, 400, "empty"),
    "no body": (PREDICT, b"", {}, 400, "not_json"),
    "batch of zero": (PREDICT, instances(), {}, 400, "empty"),
    "batch of zero in V2": (INFER, tensor(shape=[0, SIZE, SIZE, 3], data=[]), {}, 400, "shape"),
    "10,000 instances": (PREDICT, instances(*[{}] * 10_000), {}, 400, "too_many"),
    "10,000 crops": (INFER, tensor(shape=[10_000, SIZE, SIZE, 3]), {}, 400, "too_many"),
    "large file": (PREDICT, instances({"image": {"b64": b64(bytes(3_000_001))}}), {}, 400, "too_large"),
    "large body": (PREDICT, bytes(6_000_001), {}, 413, "too_large"),
    "unknown model": ("/v1/models/other:predict", instances({}), {}, 404, "unknown_model"),
    "unknown path": ("/v1/nothing", b"{}", {}, 404, "not_found"),
    "unknown version": ("/v2/models/tiny/versions/7/infer", tensor(), {}, 404, "not_found"),
    "path trick": (PREDICT, instances({"uri": "file:///etc/passwd"}), {}, 400, "uri"),
    "metadata service": (PREDICT, instances({"uri": "http://169.254.169.254/"}), {}, 400, "uri"),
    "management": ("/v2/repository/models/tiny/unload", b"", {}, 403, "management"),
}


def send(server: Server, case: tuple[str, bytes, dict[str, str], int, str]) -> httpx.Response:
    path, body, headers, status, reason = case
    before = server.rejected(reason)
    response = server.client.post(path, content=body, headers=headers)
    assert response.status_code == status, response.text[:300]
    assert server.rejected(reason) == before + 1, (reason, response.text[:300])
    assert set(response.json()) == {"error"}
    return response


@pytest.mark.parametrize("name", CASES)
def test_each_kind_has_its_status_and_reason(server: Server, name: str) -> None:
    send(server, CASES[name])


def test_media_have_theirs_too(server: Server, portrait: np.ndarray, clip: bytes) -> None:
    found = {f"image {name}": ("image", *bad) for name, bad in bad_images(portrait).items()}
    found |= {f"video {name}": ("video", *bad) for name, bad in bad_videos(clip).items()}
    for name, (kind, data, reason) in found.items():
        body = instances({kind: {"b64": b64(data)}})
        error = send(server, (PREDICT, body, {}, 400, reason)).json()["error"]
        assert error.startswith(f"instances[0].{kind}: expected"), name
        assert "max_" in error if reason == "too_large" else "max_" not in error, (name, error)


def test_the_next_good_request_takes_its_usual_time(
    server: Server, portrait: np.ndarray, clip: bytes
) -> None:
    body = instances({"image": {"b64": b64(encode_png(portrait))}})

    def seconds() -> float:
        began = time.monotonic()
        assert server.client.post(PREDICT, content=body).status_code == 200
        return time.monotonic() - began

    usual = float(np.median([seconds() for _ in range(5)]))
    slow = {}
    for name, case in CASES.items():
        send(server, case)
        if (took := seconds()) > USUAL * usual + SLACK_SECONDS:
            slow[name] = took
    assert not slow, usual
