"""Rubbish gets a 4xx that names it, and the next good request is answered as ever."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfcore.errors import InvalidInput
from dfcore.preprocessing import decode_image, decode_video
from serving.inputs import parse_instances, parse_json, parse_tensor
from serving.protocol import RestRequest, decode_infer_request
from serving.settings import ServedMedia, ServerSettings
from tests.serving.conftest import Server, b64, encode_png
from tests.serving.hostile import odd_images, unusual_bodies

LIMITS = ServerSettings(max_instances=4, media=ServedMedia(max_pixels=1_000_000, seconds_to_decode=5))
USUAL_SECONDS = 10.0
FUZZ = settings(
    max_examples=60, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@pytest.fixture
def healthy(server: Server, portrait: np.ndarray) -> Iterator[None]:
    """Afterwards a good request is answered, and nothing was logged as our own bug."""
    yield
    started = time.monotonic()
    response = server.predict({"image": {"b64": b64(encode_png(portrait))}})
    assert response.status_code == 200
    assert time.monotonic() - started < USUAL_SECONDS
    assert "Traceback" not in server.log.read_text(encoding="utf-8")


def assert_refused(response: httpx.Response, *codes: int) -> None:
    """Require a short, clean refusal."""
    assert response.status_code in (codes or (400,)), response.text[:500]
    assert len(response.content) < 3000
    for leak in ("Traceback", 'File "', "site-packages", "pytest-of", "/root", "object at 0x"):
        assert leak not in response.text


def refused(work: Callable[[], object]) -> str:
    """Return why work was refused; "" if it was not."""
    try:
        work()
    except InvalidInput as error:
        return str(error)
    return ""


@pytest.mark.usefixtures("healthy")
def test_odd_but_good_images_are_answered(server: Server, portrait: np.ndarray) -> None:
    found = {}
    for name, data in odd_images(portrait).items():
        response = server.predict({"image": {"b64": b64(data)}})
        assert response.status_code == 200, (name, response.text)
        (answer,) = response.json()["predictions"]
        assert answer["outcome"] == "ok", name
        found[name] = answer["faces"][0]["box"]
    middle = np.mean(list(found.values()), axis=0)
    for name, box in found.items():
        assert np.abs(np.array(box) - middle).max() < 25, name  # turned upright, first frame, no shift


@pytest.mark.usefixtures("healthy")
def test_unusual_bodies_are_a_400(server: Server) -> None:
    for name, body in unusual_bodies().items():
        for path in ("/v1/models/tiny:predict", "/v2/models/tiny/infer", "/v1/models/tiny:explain"):
            for kind in ("application/json", "application/cloudevents+json"):
                response = server.client.post(path, content=body, headers={"content-type": kind})
                assert_refused(response)
                assert response.json()["error"], name


@pytest.mark.usefixtures("healthy")
def test_odd_headers_change_nothing(server: Server) -> None:
    event = {"ce-specversion": "9", "ce-id": "1", "ce-source": "x", "ce-type": "y"}
    for headers in (
        event,
        {"content-type": "a/b; charset=\\"},
        {"content-encoding": "gzip"},
        {"accept": "\\"},
    ):
        response = server.client.post("/v1/models/tiny:predict", content=b"{}", headers=headers)
        assert_refused(response)
    for stated in (b"-1", b"1e3", b"9" * 30, b"+1", "\u0663".encode()):
        headers = {b"inference-header-content-length": stated}
        assert_refused(server.client.post("/v2/models/tiny/infer", content=b"{}", headers=headers))
    assert server.client.get("/metrics", headers={"accept": "\\;;q=x"}).status_code == 200


@pytest.mark.usefixtures("healthy")
def test_paths_that_are_none(server: Server) -> None:
    for path in (
        "/v1/models/../../etc/passwd:predict", "/v1/models/%2e%2e%2f:predict", "/v1/models/a%00b:predict",
        "/v1/models/" + "a" * 5000 + ":predict", "/v2/models/tiny/versions/1/infer", "/v2/models//infer",
    ):  # fmt: skip
        assert_refused(server.client.post(path, json={"instances": []}), 404)
    for verb in ("load", "unload"):
        assert_refused(server.client.post(f"/v2/repository/models/tiny/{verb}"), 403)
    for method in ("PUT", "DELETE", "PATCH"):
        assert_refused(server.client.request(method, "/v1/models/tiny:predict"), 405)
    assert_refused(server.client.get("/v2/models/other"), 404)
    assert_refused(server.client.get("/v2/models/other/ready"), 404)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd", "http://169.254.169.254/latest/meta-data/", "ftp://a/b", "s3://bucket/x",
        "{allowed}/../server.log", "{allowed}/..%2fserver.log", "{allowed}//etc/passwd", "{allowed}/./x",
        "{allowed}/.hidden", "{allowed}/a\\b", "{allowed}/link", "{allowed}/", "{allowed}/folder",
        "{allowed}x",
        "{allowed}/a\nb", "FILE://{plain}/face.png", "file://localhost{plain}/face.png",
    ],
)  # fmt: skip
def test_path_tricks_in_a_uri_are_a_400(server: Server, uri: str) -> None:
    folder = server.allowed / "inputs"
    folder.mkdir(exist_ok=True)
    (folder / "folder").mkdir(exist_ok=True)
    link = folder / "link"
    if not link.is_symlink():
        link.symlink_to("/etc/passwd")
    text = uri.replace("{allowed}", f"file://{folder}").replace("{plain}", str(folder))
    before = server.rejected("uri")
    response = server.predict({"uri": text})
    assert response.status_code == 400
    assert "root:" not in response.text
    assert server.rejected("uri") == before + 1


@pytest.mark.usefixtures("healthy")
def test_slow_sender_is_a_408(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.client.base_url.port or 80), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
    assert server.rejected("slow") >= 1


@pytest.mark.usefixtures("healthy")
def test_headers_have_limits_too(server: Server) -> None:
    address = ("127.0.0.1", server.client.base_url.port or 80)
    good = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    slow, large = server.rejected("slow"), server.rejected("too_large")
    with socket.create_connection(address, timeout=20) as idle, socket.create_connection(address) as again:
        again.sendall(good)
        assert b"200 OK" in again.recv(2000)
        again.sendall(b"GET /")  # the second request of the same connection stops half way
        with socket.create_connection(address, timeout=20) as endless:
            endless.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 90_000)
            assert endless.recv(100).startswith(b"HTTP/1.1 431")
        assert idle.recv(100).startswith(b"HTTP/1.1 408")
        found = b""
        while piece := again.recv(2000):
            found += piece
        assert b"HTTP/1.1 408" in found
    assert server.rejected("slow") == slow + 2
    assert server.rejected("too_large") == large + 1


@pytest.mark.usefixtures("healthy")
def test_a_sender_that_hangs_up_is_forgotten(server: Server) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.client.base_url.port or 80)) as connection:
            connection.sendall(
                b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"
            )
    assert server.client.get("/v2/health/live").status_code == 200


@FUZZ
@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    for work in (
        lambda: parse_instances(body, LIMITS),
        lambda: parse_tensor(decode_infer_request(RestRequest(body, None), "tiny"), LIMITS),
    ):
        with pytest.raises(InvalidInput):
            work()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(["instances", "image", "video", "uri", "crop", "b64", "x"]), children, max_size=3
        )
    ),
    max_leaves=12,
)


@FUZZ
@given(_JSON)
def test_any_document_is_parsed_or_refused(document: object) -> None:
    import orjson

    body = orjson.dumps({"instances": document}) if _is_small(document) else b"{}"
    for payload in (body, parse_json(body)):
        refusal = refused(lambda given=payload: parse_instances(given, LIMITS))  # type: ignore[misc]
        assert len(refusal) < 500


def _is_small(document: object) -> bool:
    """Say whether orjson can write it: integers of 64 bits, no lone surrogates."""
    if isinstance(document, dict | list):
        return all(
            _is_small(item) for item in (document.values() if isinstance(document, dict) else document)
        )
    if isinstance(document, str):
        return not any("\ud800" <= letter <= "\udfff" for letter in document)
    return not isinstance(document, int) or abs(document) < 2**63


_TENSOR = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["images", "image_bytes", "", "x"]),
        "shape": st.lists(st.integers(-2, 70_000), max_size=5),
        "datatype": st.sampled_from(["UINT8", "BYTES", "FP32", "FP16", "BOOL", "NOPE", ""]),
    },
    optional={
        "data": st.lists(
            st.integers() | st.text(max_size=5) | st.none() | st.lists(st.integers(), max_size=2)
        ),
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "a"]),
            st.integers(-1, 40) | st.booleans() | st.text(max_size=3),
        ),
    },
)


@FUZZ
@given(st.lists(_TENSOR, max_size=2), st.binary(max_size=40), st.integers(-3, 3))
def test_any_tensors_are_parsed_or_refused(tensors: list[object], tail: bytes, shift: int) -> None:
    import json

    head = json.dumps({"inputs": tensors}).encode()
    request = RestRequest(head + tail, str(len(head) + shift))
    assert len(refused(lambda: parse_tensor(decode_infer_request(request, "tiny"), LIMITS))) < 1000


@FUZZ
@given(data=st.data())
def test_damaged_media_is_decoded_or_refused(data: st.DataObject, portrait: np.ndarray, clip: bytes) -> None:
    files = {**odd_images(portrait[64:192:2, 64:192:2]), "clip": clip}
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, min(len(content), 4000) - 1))
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    if name == "clip":
        assert len(refused(lambda: decode_video(bytes(content), 2, LIMITS.media))) < 1000
    else:
        assert len(refused(lambda: decode_image(bytes(content), LIMITS.media))) < 1000


def test_lengths_that_lie_are_refused() -> None:
    head = b'{"inputs": [{"name": "image_bytes", "shape": [2], "datatype": "BYTES", "parameters": %s}]}'
    for raw in (struct.pack("<I", 2**32 - 1) + b"a", b"\0\0\0", struct.pack("<I", 0) * 9, b""):
        document = head % (b'{"binary_data_size": %d}' % len(raw))
        with pytest.raises(InvalidInput):
            parse_tensor(
                decode_infer_request(RestRequest(document + raw, str(len(document))), "tiny"), LIMITS
            )


@pytest.mark.usefixtures("healthy")
def test_grpc_refusals_have_their_codes(server: Server) -> None:
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

    def tensor(kind: str, *shape: int) -> object:
        return messages.ModelInferRequest.InferInputTensor(name="images", datatype=kind, shape=shape)

    def request(*inputs: object, name: str = "tiny", raw: tuple[bytes, ...] = (b"abc",)) -> object:
        return messages.ModelInferRequest(model_name=name, inputs=inputs, raw_input_contents=raw)

    good = tensor("UINT8", 1, 1, 1, 3)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        for call, message, code in (
            (stub.ModelInfer, request(good, name="other"), "NOT_FOUND"),
            (stub.ModelInfer, request(good), "INVALID_ARGUMENT"),
            (stub.ModelInfer, request(tensor("FP32", 1)), "INVALID_ARGUMENT"),
            (stub.ModelInfer, request(tensor("NOPE", 1)), "INVALID_ARGUMENT"),
            (stub.ModelInfer, request(tensor("UINT8", -1, 3)), "INVALID_ARGUMENT"),
            (stub.ModelInfer, request(), "INVALID_ARGUMENT"),
            (stub.ModelInfer, request(good, good), "INVALID_ARGUMENT"),
            (stub.ModelInfer, request(good, raw=(bytes(7_000_000),)), "RESOURCE_EXHAUSTED"),
            (stub.ModelMetadata, messages.ModelMetadataRequest(name="other"), "NOT_FOUND"),
            (
                stub.RepositoryModelUnload,
                messages.RepositoryModelUnloadRequest(model_name="tiny"),
                "PERMISSION_DENIED",
            ),
        ):
            with pytest.raises(grpc.RpcError) as failure:
                call(message, timeout=30)
            assert failure.value.code().name == code, failure.value.details()
        assert stub.ServerLive(messages.ServerLiveRequest(), timeout=30).live
        assert stub.ModelReady(messages.ModelReadyRequest(name="tiny"), timeout=30).ready
