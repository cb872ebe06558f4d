"""The real server process, over HTTP and gRPC."""

from __future__ import annotations

import json
import struct
import threading
import time
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.__main__ import main
from tests.serving.conftest import SIZE, Bundle, Server, b64, encode_png, free_port, write_training_output


def bomb() -> bytes:
    """A PNG of a few bytes whose header states 60,000 x 60,000 pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_v1_image(server: Server, portrait: np.ndarray, bundle: Bundle) -> None:
    response = server.predict({"image": {"b64": b64(encode_png(portrait))}})
    assert response.status_code == 200, response.text
    (answer,) = response.json()["predictions"]
    assert answer["outcome"] == "ok"
    assert answer["label"] == ("fake" if answer["score"] >= answer["threshold"] else "real")
    assert answer["threshold"] == 0.4
    assert answer["faces"][0]["score"] == answer["score"]
    x0, y0, x1, y1 = answer["faces"][0]["box"]
    assert 80 < (x0 + x1) / 2 < 180
    assert 60 < (y0 + y1) / 2 < 160
    assert answer["quality"]["face_size"] == pytest.approx(max(x1 - x0, y1 - y0))
    assert answer["quality"]["blur"] > 0
    assert 0 <= answer["attack_score"] < 1
    assert set(answer["attack_parts"]) == {"jpeg_75", "blur", "bits_4", "mahalanobis", "frequency"}
    assert set(answer["raised"]) <= {*answer["attack_parts"], "combined"}
    assert answer["flagged"] == ("combined" in answer["raised"])
    assert answer["model"]["name"] == "tiny"
    assert answer["model"]["digest"].startswith("sha256:")


def test_v1_answers_each_instance_in_order(server: Server, portrait: np.ndarray, clip: bytes) -> None:
    grey = encode_png(np.full((128, 128, 3), 127, dtype=np.uint8))
    image = {"image": {"b64": b64(encode_png(portrait))}}
    response = server.predict({"image": {"b64": b64(grey)}}, {"video": {"b64": b64(clip)}}, image)
    assert response.status_code == 200, response.text
    nobody, video, portrait_answer = response.json()["predictions"]
    assert nobody["outcome"] == "no_face"
    assert nobody["score"] is None
    assert nobody["label"] is None
    assert len(video["frames"]) == 3
    assert video["frames_decoded"] == 3
    scores = [frame["face"]["score"] for frame in video["frames"]]
    assert video["score"] == pytest.approx(np.mean(scores))
    assert [frame["timestamp"] for frame in video["frames"]] == sorted(
        frame["timestamp"] for frame in video["frames"]
    )
    assert portrait_answer["outcome"] == "ok"
    assert server.predict(image).json()["predictions"][0] == portrait_answer  # alone or among others


BAD_INSTANCES = [
    ({"image": {"b64": "%%%"}}, "base64", "base64"),
    ({"image": {"b64": "abc"}}, "base64", "base64"),
    ({"image": {"b64": ""}}, "empty", "zero bytes"),
    ({"image": "abc"}, "malformed", "b64"),
    ({"picture": {"b64": ""}}, "malformed", "image, video, uri"),
    ([1, 2], "malformed", "image, video, uri"),
    ({"image": {"b64": b64(b"hello")}}, "media", "image"),
    ({"video": {"b64": b64(b"this is a text file, not an mp4\n" * 50)}}, "media", "video"),
    ({"image": {"b64": b64(bomb())}}, "too_large", "max_pixels=1000000"),
    ({"image": {"b64": b64(bytes(3_000_001))}}, "too_large", "max_bytes=3000000"),
    ({"uri": "s3://elsewhere/video.mp4"}, "uri", "allowed uri"),
    ({"uri": 7}, "uri", "allowed uri"),
]


@pytest.mark.parametrize(("instance", "reason", "named"), BAD_INSTANCES)
def test_v1_bad_instance_is_a_400_that_names_it(
    server: Server, instance: object, reason: str, named: str
) -> None:
    before = server.rejected(reason)
    response = server.predict(instance)
    assert response.status_code == 400, response.text
    assert named in response.json()["error"]
    assert server.rejected(reason) == before + 1


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"instances": 3}', b"{}", b'{"instances": []}']
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", None])
def test_v1_bad_body_is_a_400(server: Server, body: bytes, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    response = server.client.post("/v1/models/tiny:predict", content=body, headers=headers)
    assert response.status_code == 400, response.text
    assert "expected" in response.json()["error"]


def test_v1_truncated_video(server: Server, clip: bytes) -> None:
    response = server.predict({"video": {"b64": b64(clip[: len(clip) // 2])}})
    assert response.status_code in (200, 400), response.text  # good frames are answered, none is a 400
    assert server.predict({"video": {"b64": b64(clip[:64])}}).status_code == 400


def test_v1_too_many_instances(server: Server) -> None:
    response = server.predict(*[{"image": {"b64": "AAAA"}}] * 9)
    assert response.status_code == 400
    assert "max_instances" in response.json()["error"]
    assert "8" in response.json()["error"]


def test_body_beyond_the_limit_is_a_413(server: Server) -> None:
    def chunks() -> object:
        for _ in range(7):
            yield bytes(1_000_000)

    for content in (bytes(6_000_001), chunks()):
        response = server.client.post("/v1/models/tiny:predict", content=content)  # type: ignore[arg-type]
        assert response.status_code == 413, response.text
        assert "max_body_bytes=6000000" in response.json()["error"]


def test_uri_below_an_allowed_prefix(server: Server, portrait: np.ndarray) -> None:
    (server.allowed / "face.png").write_bytes(encode_png(portrait))
    response = server.predict({"uri": f"file://{server.allowed}/face.png"})
    assert response.status_code == 200, response.text
    assert response.json()["predictions"][0]["outcome"] == "ok"
    for bad in ("missing.png", "../secret.png", "a/../../secret.png"):
        response = server.predict({"uri": f"file://{server.allowed}/{bad}"})
        assert response.status_code == 400, response.text


def test_unknown_model_is_a_404(server: Server) -> None:
    assert server.client.post("/v1/models/other:predict", json={"instances": []}).status_code == 404


def test_v2_metadata(server: Server) -> None:
    document = server.client.get("/v2/models/tiny").json()
    assert {"name": "images", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]} in document["inputs"]
    assert [item["name"] for item in document["outputs"]] == ["score", "label", "outcome", "answer"]


def test_v2_crops_without_id_as_json_and_binary(server: Server) -> None:
    crops = np.random.default_rng(3).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    tensor = {"name": "images", "shape": list(crops.shape), "datatype": "UINT8"}
    plain = server.infer({**tensor, "data": crops.flatten().tolist()})
    assert plain.status_code == 200, plain.text
    outputs = {item["name"]: item["data"] for item in plain.json()["outputs"]}
    assert plain.json()["id"]
    assert len(outputs["score"]) == 2
    assert json.loads(outputs["answer"][0])["score"] == pytest.approx(outputs["score"][0], abs=1e-6)
    binary = send_binary(server, {**tensor, "parameters": {"binary_data_size": crops.size}}, crops.tobytes())
    assert binary.status_code == 200, binary.text
    assert binary.json()["outputs"] == plain.json()["outputs"]


def send_binary(server: Server, tensor: object, raw: bytes, length: str | None = None) -> httpx.Response:
    """Send a V2 request with a binary tensor."""
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": length or str(len(head))}
    headers["content-type"] = "application/octet-stream"
    return server.client.post("/v2/models/tiny/infer", content=head + raw, headers=headers)


def test_v2_files_as_bytes_and_base64(server: Server, portrait: np.ndarray, clip: bytes) -> None:
    png = encode_png(portrait)
    raw = b"".join(struct.pack("<I", len(item)) + item for item in (png, clip))
    tensor = {"name": "image_bytes", "shape": [2], "datatype": "BYTES"}
    binary = send_binary(server, {**tensor, "parameters": {"binary_data_size": len(raw)}}, raw)
    assert binary.status_code == 200, binary.text
    text = server.infer({**tensor, "data": [b64(png), b64(clip)]}, id="seven")
    assert text.json()["id"] == "seven"
    assert text.json()["outputs"] == binary.json()["outputs"]
    outputs = {item["name"]: item["data"] for item in text.json()["outputs"]}
    assert outputs["outcome"] == ["ok", "ok"]


IMAGES = {"name": "images", "shape": [1, SIZE, SIZE, 3], "datatype": "UINT8", "data": [0] * (SIZE * SIZE * 3)}
BAD_TENSORS = [
    ({**IMAGES, "datatype": "FP32"}, "UINT8"),
    ({**IMAGES, "datatype": "NOPE"}, "UINT8"),
    ({**IMAGES, "shape": [1, SIZE, SIZE, 4]}, "shape"),
    ({**IMAGES, "shape": [1, 32, 32, 3], "data": [0] * 3072}, f"{SIZE}, {SIZE}, 3"),
    ({**IMAGES, "shape": [-1, SIZE, SIZE, 3]}, "at least 1"),
    ({**IMAGES, "shape": [99, SIZE, SIZE, 3]}, "max_instances"),
    ({**IMAGES, "data": [0.5] * (SIZE * SIZE * 3)}, "whole numbers"),
    ({**IMAGES, "data": [300] * (SIZE * SIZE * 3)}, "whole numbers"),
    ({**IMAGES, "data": ["a"] * (SIZE * SIZE * 3)}, "whole numbers"),
    ({**IMAGES, "data": []}, "expected"),
    ({**IMAGES, "name": "pixels"}, "images or image_bytes"),
    ({"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [3]}, "base64"),
    ({"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": ["%"]}, "base64"),
    ({"name": "image_bytes", "shape": [2], "datatype": "BYTES", "data": ["AAAA"]}, "2 elements"),
    ({"name": "images", "shape": ["a"], "datatype": "UINT8", "data": [1]}, "shape"),
    ({"name": "images"}, "shape"),
]


@pytest.mark.parametrize(("tensor", "named"), BAD_TENSORS)
def test_v2_bad_tensor_is_a_400_that_names_it(server: Server, tensor: object, named: str) -> None:
    response = server.infer(tensor)
    assert response.status_code == 400, response.text
    assert named in response.json()["error"]
    assert len(response.text) < 2000  # the body is not sent back


def test_v2_bad_binary_is_a_400(server: Server) -> None:
    tensor = {"name": "images", "shape": [1, SIZE, SIZE, 3], "datatype": "UINT8"}
    short = {**tensor, "parameters": {"binary_data_size": 10}}
    assert send_binary(server, short, bytes(10)).status_code == 400
    assert (
        send_binary(server, {**tensor, "parameters": {"binary_data_size": 99}}, bytes(10)).status_code == 400
    )
    assert send_binary(server, tensor, bytes(10)).status_code == 400
    assert send_binary(server, short, bytes(10), length="99999").status_code == 400
    assert send_binary(server, short, bytes(10), length="x").status_code == 400
    assert send_binary(server, short, bytes(10), length="5").status_code == 400
    files = {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}}
    assert send_binary(server, files, struct.pack("<I", 99) + b"ab").status_code == 400


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"inputs": []}', b'{"inputs": 1}'])
@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream", "text/plain"])
def test_v2_bad_body_is_a_400(server: Server, body: bytes, kind: str) -> None:
    response = server.client.post("/v2/models/tiny/infer", content=body, headers={"content-type": kind})
    assert response.status_code == 400, response.text


def test_v2_unknown_output_is_a_400(server: Server) -> None:
    assert server.infer(IMAGES, outputs=[{"name": "nope"}]).status_code == 400
    response = server.infer(IMAGES, outputs=[{"name": "score"}])
    assert [item["name"] for item in response.json()["outputs"]] == ["score"]


def test_grpc(server: Server) -> None:
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

    tensor = messages.ModelInferRequest.InferInputTensor(
        name="images", datatype="UINT8", shape=[1, SIZE, SIZE, 3]
    )
    request = messages.ModelInferRequest(
        model_name="tiny", inputs=[tensor], raw_input_contents=[bytes(SIZE * SIZE * 3)]
    )
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        response = stub.ModelInfer(request)
        names = [output.name for output in response.outputs]
        request.raw_input_contents[0] = b"short"
        with pytest.raises(grpc.RpcError) as failure:
            stub.ModelInfer(request)
    assert names == ["score", "label", "outcome", "answer"]
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_metrics(server: Server, portrait: np.ndarray) -> None:
    server.predict({"image": {"b64": b64(encode_png(portrait))}})
    text = server.client.get("/metrics").text
    rows = [row for row in text.splitlines() if row.startswith("rampart_")]
    for name in (
        'rampart_requests_total{model="tiny",outcome="ok",version=',
        'rampart_request_seconds_count{stage="decode"}',
        'rampart_request_seconds_count{stage="detect"}',
        'rampart_request_seconds_count{stage="score"}',
        'rampart_fake_score_bucket{le="0.05",model="tiny"',
        'rampart_attack_score_bucket{kind="jpeg_75",le="0.05"',
        'rampart_attack_score_bucket{kind="combined",le="0.05"',
        "rampart_faces_per_input_count{",
        'rampart_input_quality_count{kind="blur"',
        'rampart_input_quality_count{kind="face_size"',
        "rampart_model_info{digest=",
    ):
        assert any(row.startswith(name) for row in rows), name
    ratios = [
        float(row.rsplit(" ", 1)[1])
        for row in rows
        if row.startswith('rampart_reference_bucket_ratio{histogram="fake_score"')
    ]
    assert len(ratios) == 21
    assert sum(ratios) == pytest.approx(1)
    for kind in ("jpeg_75", "mahalanobis", "combined"):
        name = f'rampart_reference_bucket_ratio{{histogram="attack_score_{kind}",'
        assert sum(row.startswith(name) for row in rows) == 21, kind
    served = {
        row.split('le="')[1].split('"')[0] for row in rows if row.startswith("rampart_fake_score_bucket")
    }
    assert {row.split('le="')[1].split('"')[0] for row in rows if 'histogram="fake_score"' in row} == served


def test_probes_answer_during_inference(server: Server, clip: bytes) -> None:
    def work() -> None:
        with httpx.Client(base_url=server.client.base_url, timeout=60) as client:
            instances = [{"video": {"b64": b64(clip)}}] * 8
            done.append(client.post("/v1/models/tiny:predict", json={"instances": instances}).status_code)

    done: list[int] = []
    waits: list[float] = []
    thread = threading.Thread(target=work)
    started = time.monotonic()
    thread.start()
    while thread.is_alive():
        before = time.monotonic()
        assert server.client.get("/v2/health/live").status_code == 200
        waits.append(time.monotonic() - before)
        time.sleep(0.01)
    thread.join()
    assert done == [200]
    # a blocked event loop would make one probe wait for nearly the whole inference
    assert len(waits) >= 3
    assert max(waits) < 0.5 * (time.monotonic() - started)


def test_busy_port_is_refused_before_loading(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    port = str(server.client.base_url.port)
    assert main(["--model", "/nowhere", "--http-port", port]) == 2
    assert f"{port} can't be used" in capsys.readouterr().err


def test_unsigned_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_training_output(tmp_path / "model")
    assert main(["--model", str(folder), "--http-port", str(free_port())]) == 1
    assert "expected a signed bundle" in capsys.readouterr().err
