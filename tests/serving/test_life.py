"""A server's life: reload under load, tokens, draining; roles in three processes; several workers."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from dfcore.provenance import sha256_file
from dfcore.release import Registry, sign_bundle
from serving.__main__ import main
from serving.client import Client
from tests.serving.conftest import (
    SIZE,
    START_SECONDS,
    Bundle,
    Server,
    b64,
    encode_png,
    free_port,
    start,
    stop,
    wait_until_ready,
)

TOKEN = "t" * 24
CROPS = {"name": "images", "shape": [1, SIZE, SIZE, 3], "datatype": "UINT8", "data": [7] * (SIZE * SIZE * 3)}


@dataclass(frozen=True)
class Followed:
    """A server that follows a channel of a registry."""

    client: httpx.Client
    registry: Registry
    tokens: Path
    log: Path
    versions: tuple[str, str]


def second_bundle(bundle: Bundle, folder: Path) -> Path:
    """Return the same bundle with another note in it."""
    shutil.copytree(bundle.folder, folder)
    (folder / "signature.json").unlink()
    (folder / "note.txt").write_text("another", encoding="utf-8")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["note.txt"] = {"sha256": sha256_file(folder / "note.txt")}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    sign_bundle(folder, bundle.folder.parent / "keys" / "rampart.pem")
    return folder


@contextmanager
def running(
    arguments: list[str], settings: dict[str, object], environment: dict[str, str], home: Path
) -> Iterator[tuple[httpx.Client, Path]]:
    """Run a server until the block ends; it must end cleanly."""
    port = free_port()
    (home / "settings.yaml").write_text(json.dumps({"host": "127.0.0.1", **settings}), encoding="utf-8")
    log = home / "server.log"
    common = ["--name", "tiny", "--http-port", str(port), "--settings", str(home / "settings.yaml")]
    process = start([*arguments, *common], environment, log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_ready(client, process, log)
            yield client, log
    finally:
        code = stop(process)
    assert code == 0, log.read_text(encoding="utf-8")[-3000:]


@pytest.fixture(scope="module")
def followed(
    bundle: Bundle, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Followed]:
    """A predictor with tokens that follows tiny@production."""
    home = tmp_path_factory.mktemp("followed")
    registry = Registry(str(home / "registry"))
    first = registry.publish("tiny", bundle.folder, public_key=bundle.public_key)
    second = registry.publish("tiny", second_bundle(bundle, home / "second"), public_key=bundle.public_key)
    registry.promote("tiny", first, "production", "tester", "test")
    tokens = home / "tokens.yaml"
    tokens.write_text(f"tester: {TOKEN}\n", encoding="utf-8")
    settings = {
        "role": "predictor", "threads": 1, "reload_seconds": 0.2, "tokens_file": str(tokens),
        "drain_seconds": 1.5,
    }  # fmt: skip
    address = ["--model", "registry://tiny@production", "--public-key", str(bundle.public_key)]
    surroundings = {**environment, "RAMPART_REGISTRY": str(home / "registry")}
    with running(address, settings, surroundings, home) as (client, log):
        client.headers["authorization"] = f"Bearer {TOKEN}"
        yield Followed(client, registry, tokens, log, (first, second))


def infer(client: httpx.Client) -> httpx.Response:
    """Ask for one crop."""
    return client.post("/v2/models/tiny/infer", json={"inputs": [CROPS]})


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_reloads_under_load_drop_no_request(followed: Followed) -> None:
    client, codes, versions = followed.client, [], set()
    done = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=client.base_url, headers=client.headers, timeout=60) as own:
            while not done.is_set():
                response = infer(own)
                codes.append(response.status_code)
                versions.add(response.json()["model_version"])

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for version in (followed.versions[1], followed.versions[0], followed.versions[1]):
        followed.registry.promote("tiny", version, "production", "tester", "test")
        wait_for(lambda wanted=version: infer(client).json()["model_version"] == wanted)  # type: ignore[misc]
    done.set()
    for thread in threads:
        thread.join()
    assert set(codes) == {200}
    assert versions == set(followed.versions)
    text = client.get("/metrics").text
    assert 'rampart_reloads_total{outcome="replaced"} 3.0' in text
    infos = [row for row in text.splitlines() if row.startswith("rampart_model_info{")]
    assert sorted(row[-3:] for row in infos) == ["0.0", "1.0"]


def test_a_version_that_does_not_verify_is_not_served(followed: Followed) -> None:
    before = infer(followed.client).json()["model_version"]
    other = next(version for version in followed.versions if version != before)
    folder = Path(followed.registry.store.root) / "models" / "tiny" / "versions" / other  # type: ignore[union-attr]
    weights = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").chmod(0o644)
    (folder / "weights.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    try:
        pointer = Path(followed.registry.store.root) / "models/tiny/channels/production.json"  # type: ignore[union-attr]
        document = json.loads(pointer.read_text(encoding="utf-8"))
        document |= {"version": other, "manifest_sha256": sha256_file(folder / "manifest.json")}
        kept = pointer.read_bytes()
        pointer.chmod(0o644)
        pointer.write_text(json.dumps(document), encoding="utf-8")
        wait_for(lambda: 'reloads_total{outcome="refused"} 1.0' in followed.client.get("/metrics").text)
        time.sleep(0.5)
        assert infer(followed.client).json()["model_version"] == before
        assert 'outcome="refused"} 1.0' in followed.client.get("/metrics").text  # not tried for ever
        assert followed.client.get("/v2/health/ready").status_code == 200
        pointer.write_bytes(kept)
    finally:
        (folder / "weights.safetensors").write_bytes(weights)


def test_a_predictor_takes_crops_only_and_asks_for_tokens(followed: Followed, portrait: np.ndarray) -> None:
    image = {"instances": [{"image": {"b64": b64(encode_png(portrait))}}]}
    response = followed.client.post("/v1/models/tiny:predict", json=image)
    assert response.status_code == 400
    assert "expected crops at a predictor" in response.json()["error"]
    assert followed.client.post("/v1/models/tiny:explain", json=image).status_code == 400
    assert len(followed.client.get("/v2/models/tiny").json()["inputs"]) == 1
    anonymous = httpx.post(f"{followed.client.base_url}/v2/models/tiny/infer", json={"inputs": [CROPS]})
    assert anonymous.status_code == 401
    assert httpx.get(f"{followed.client.base_url}/v2/health/live").status_code == 200
    assert httpx.get(f"{followed.client.base_url}/metrics").status_code == 200


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
def test_a_transformer_answers_like_one_process(
    server: Server, protocol: str, bundle: Bundle, environment: dict[str, str], portrait: np.ndarray,
    tmp_path: Path,
) -> None:  # fmt: skip
    port = server.client.base_url.port if protocol == "v2" else server.grpc_port
    settings = {
        "role": "transformer", "predictor_host": f"127.0.0.1:{port}", "predictor_protocol": protocol,
        "workers": 2 if protocol == "v2" else 1, "threads": 1,
    }  # fmt: skip
    address = ["--model", str(bundle.folder), "--public-key", str(bundle.public_key)]
    image = encode_png(portrait)
    expected = server.predict({"image": {"b64": b64(image)}}).json()
    with running(address, settings, environment, tmp_path) as (client, _):
        for _ in range(8):
            # each on a connection of its own, so that both workers get some
            body = {"instances": [{"image": {"b64": b64(image)}}]}
            response = httpx.post(f"{client.base_url}/v1/models/tiny:predict", json=body, timeout=60)
            assert response.status_code == 200, response.text
            assert_same(response.json()["predictions"][0], expected["predictions"][0])
        rows = httpx.get(f"{client.base_url}/metrics").text.splitlines()
        (count,) = (row for row in rows if row.startswith('rampart_requests_total{model="tiny",outcome="ok"'))
        assert float(count.rsplit(" ", 1)[1]) == 8  # of all workers; warming up does not count
        with Client(str(client.base_url), "tiny") as typed:
            assert typed.predict_image(image).score == expected["predictions"][0]["score"]


def assert_same(found: object, expected: object) -> None:
    """Require equal answers; another process's threads may sum in another order."""
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list):
        assert isinstance(found, list)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)


def test_liveness_comes_before_readiness_and_readiness_ends_first(
    bundle: Bundle, environment: dict[str, str], tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "server.log"
    (tmp_path / "settings.yaml").write_text(json.dumps({"host": "127.0.0.1", "drain_seconds": 2}))
    arguments = ["--model", str(bundle.folder), "--name", "tiny", "--http-port", str(port)]
    arguments += ["--public-key", str(bundle.public_key), "--settings", str(tmp_path / "settings.yaml")]
    process = start(arguments, environment, log)
    seen = set()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            def is_ready() -> bool:
                try:
                    live = client.get("/v2/health/live").status_code
                    ready = client.get("/v2/health/ready").status_code
                except httpx.TransportError:
                    return False
                seen.add((live, ready))
                return ready == 200

            wait_for(is_ready, START_SECONDS)
            assert (200, 503) in seen
            process.terminate()
            wait_for(lambda: client.get("/v2/health/ready").status_code == 503, 2)
            assert client.get("/v2/models/tiny/ready").status_code == 503
            assert client.get("/v2/health/live").status_code == 200
            assert infer(client).status_code == 200  # still answers while traffic moves away
    finally:
        assert stop(process) == 0, log.read_text(encoding="utf-8")[-3000:]


def test_a_bad_token_file_is_named_at_the_start(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.yaml").write_text('{"tokens_file": "/nowhere", "host": "127.0.0.1"}')
    arguments = ["--model", str(bundle.folder), "--http-port", str(free_port())]
    assert main([*arguments, "--settings", str(tmp_path / "settings.yaml")]) == 2
    assert "expected tokens at /nowhere" in capsys.readouterr().err
