"""The real TorchServe on a signed bundle's archive: the KServe server's answers, and nothing left open."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml

from dfcore.errors import BundleError, ConfigError, WorkFailed
from dfcore.models import load_detector
from dfcore.models.export import write_onnx
from dfcore.models.golden import write_golden
from dfcore.provenance import sha256_file
from dfcore.release import ensure_key, sign_bundle
from dfcore.release.model_archive import write_model_archive
from serving.torchserve.__main__ import _parser, main
from serving.torchserve.keys import is_ready, read_token
from serving.torchserve.launch import Launch, Ports, find_java, prepare, start
from tests.serving.conftest import (
    SIZE,
    START_SECONDS,
    STOP_SECONDS,
    Bundle,
    Server,
    b64,
    encode_png,
    free_port,
)

HERE = Path(__file__).resolve().parents[2] / "serving" / "torchserve"
SECRET = "not-for-workers-000"

pytestmark = pytest.mark.timeout(600)  # two servers are started, on whatever else the machine does
CLOSE = 1e-4


@dataclass(frozen=True)
class Running:
    """A running TorchServe."""

    home: Path
    ports: Ports
    process: subprocess.Popen[bytes]
    client: httpx.Client

    def log(self) -> str:
        return (self.home.parent / "log").read_text(encoding="utf-8")

    def predict(self, *instances: object) -> httpx.Response:
        return self.client.post("/v1/models/tiny:predict", json={"instances": list(instances)})

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.ports.metrics}/metrics").text

    def rejected(self, reason: str) -> float:
        for row in self.metrics().splitlines():
            if row.startswith("rampart_input_rejected_total") and f'reason="{reason}"' in row:
                return float(row.rpartition(" ")[2])
        return 0.0


def sign(folder: Path) -> Bundle:
    """List a folder's files in its manifest, and sign it."""
    files = {path.name: {"sha256": sha256_file(path)} for path in sorted(folder.iterdir())}
    (folder / "manifest.json").write_text(json.dumps({"format_version": 1, "files": files}), encoding="utf-8")
    key = folder.parent / "keys" / "rampart.pem"
    public_key = Path(ensure_key(key))
    sign_bundle(folder, key)
    return Bundle(folder, public_key)


@pytest.fixture(scope="module")
def archived(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of the other tests, with the exports that publishing makes."""
    folder = tmp_path_factory.mktemp("archived") / "model"
    shutil.copytree(bundle.folder, folder, ignore=shutil.ignore_patterns("manifest.json", "signature.json"))
    detector = load_detector(folder)
    write_golden(folder / "golden.safetensors", detector)
    write_onnx(folder / "detector.onnx", detector, folder / "golden.safetensors")
    write_model_archive(folder / "detector.mar", folder, "2026-01-01T00:00:00Z")
    return sign(folder)


@pytest.fixture(scope="module")
def running(
    archived: Bundle, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """TorchServe, started as in a container."""
    home = tmp_path_factory.mktemp("torchserve") / "home"
    ports = Ports(*(free_port() for _ in Ports._fields))
    command = [sys.executable, "-m", "serving.torchserve", "start", "--model", str(archived.folder)]
    command += ["--name", "tiny", "--public-key", str(archived.public_key), "--home", str(home)]
    command += ["--ports", *map(str, ports)]
    with (home.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**environment, "AWS_SECRET_ACCESS_KEY": SECRET}, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{ports.inference}"
    try:
        with httpx.Client(base_url=address, timeout=60) as client:
            server = Running(home, ports, process, client)
            until = time.monotonic() + START_SECONDS
            while not ready(home):
                if process.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"TorchServe did not start: {server.log()[-3000:]}")
                time.sleep(0.3)
            client.headers["Authorization"] = f"Bearer {read_token(home)}"
            yield server
    finally:
        workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        process.wait(STOP_SECONDS)
    _, alive = psutil.wait_procs(workers, timeout=STOP_SECONDS)
    assert not alive, "a worker outlived its server"


def ready(home: Path) -> bool:
    try:
        return is_ready(home)
    except (ConfigError, WorkFailed):  # its key file is not written yet, or nobody listens
        return False


def close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Compare two answers: the same but for rounding, and for who gave them."""
    one, two = ({name: value for name, value in found.items() if name != "model"} for found in (ours, theirs))
    assert leaves(one) == pytest.approx(leaves(two), abs=CLOSE)


def leaves(document: Any, where: str = "") -> dict[str, Any]:
    """Return the numbers and texts of a document by their path."""
    if isinstance(document, dict):
        items = [(f"{where}.{name}", value) for name, value in document.items()]
    elif isinstance(document, list):
        items = [(f"{where}[{index}]", value) for index, value in enumerate(document)]
    else:
        return {where: document}
    return {path: leaf for name, value in items for path, leaf in leaves(value, name).items()}


def test_the_answers_are_the_kserve_server_s(
    running: Running, server: Server, portrait: np.ndarray, clip: bytes, archived: Bundle
) -> None:
    image = encode_png(portrait)
    # not of the reference: its own crops lie on the thresholds that were drawn through them
    crops = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    cases: list[list[object]] = [
        [{"image": {"b64": b64(image)}}, {"video": {"b64": b64(clip)}}],
        [{"crop": crop.tolist()} for crop in crops],
    ]
    for instances in cases:
        response = running.predict(*instances)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("application/json")
        found, expected = response.json()["predictions"], server.predict(*instances).json()["predictions"]
        assert len(found) == len(instances)
        for one, two in zip(found, expected, strict=True):
            assert one["model"]["digest"] == f"sha256:{sha256_file(archived.folder / 'manifest.json')}"
            close(one, two)
    for file, expected in ((image, cases[0][0]), (clip, cases[0][1])):
        plain = running.client.post("/predictions/tiny", content=file)
        assert plain.status_code == 200, plain.text
        close(plain.json(), server.predict(expected).json()["predictions"][0])


@pytest.mark.parametrize(
    ("body", "reason", "message"),
    [
        (b"", "empty", "got zero bytes"),
        (b"{", "not_json", "expected JSON"),
        (b'{"instances": []}', "empty", "expected 1 to 16 instances"),
        (b'{"instances": [{"image": {"b64": "?"}}]}', "base64", "expected base64"),
        (b'{"instances": [{"uri": "http://localhost/"}]}', "uri", "expected an allowed uri"),
        (b"GIF89a and no more", "media", "expected an image"),
        (b'{"instances": [{"crop": [[[1, 2, 3]]]}]}', "shape", f"expected crops uint8 (N, {SIZE}"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_counted(running: Running, body: bytes, reason: str, message: str) -> None:
    before = running.rejected(reason)
    response = running.client.post(
        "/v1/models/tiny:predict", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]
    assert running.rejected(reason) == before + 1


def test_explanations_and_long_bodies_are_refused(running: Running) -> None:
    response = running.client.post("/v1/models/tiny:explain", json={"instances": []})
    assert (response.status_code, "ask the KServe server" in response.json()["error"]) == (400, True)
    response = running.client.post("/predictions/tiny", content=bytes(33_554_433))
    assert response.status_code == 413
    assert running.client.get("/ping").json() == {"status": "Healthy"}


def test_nobody_comes_in_without_a_token(running: Running, portrait: np.ndarray) -> None:
    for headers in ({}, {"Authorization": "Bearer none"}):
        for path in ("/ping", "/v1/models/tiny:predict", "/predictions/tiny"):
            response = httpx.post(
                f"{running.client.base_url}{path}", content=encode_png(portrait), headers=headers
            )
            assert response.status_code == 400
            assert "Token Authorization failed" in response.text


def test_models_cannot_be_registered(running: Running, archived: Bundle) -> None:
    management = f"http://127.0.0.1:{running.ports.management}"
    keys = json.loads((running.home / "key_file.json").read_text())
    headers = {"Authorization": f"Bearer {keys['management']['key']}"}
    for url in (f"file://{archived.folder}/detector.mar", "http://127.0.0.1/x.mar", "detector.mar"):
        response = httpx.post(f"{management}/models", params={"url": url}, headers=headers)
        assert 400 <= response.status_code < 500, response.text
    assert httpx.delete(f"{management}/models/tiny", headers=headers).status_code == 405
    listed = httpx.get(f"{management}/models", headers=headers).json()["models"]
    assert [model["modelName"] for model in listed] == ["tiny"]
    assert "Allowed Urls: [(?!)]" in running.log()
    listening = {
        found.laddr.port: found.laddr.ip
        for found in psutil.Process(running.process.pid).connections("tcp") if found.status == "LISTEN"
    }  # fmt: skip
    assert set(listening) == set(running.ports)
    assert {address.removeprefix("::ffff:") for address in listening.values()} == {"127.0.0.1"}


def test_workers_get_no_secrets(running: Running) -> None:
    (worker,) = (
        child for child in psutil.Process(running.process.pid).children()
        if "model_service_worker.py" in " ".join(child.cmdline())
    )  # fmt: skip
    assert SECRET not in worker.environ().values()
    assert "RAMPART_SERVED_IDENTITY" in worker.environ()
    assert (running.home.stat().st_mode & 0o777, (running.home / "key_file.json").stat().st_mode & 0o777) == (
        0o700, 0o600,
    )  # fmt: skip


def test_metrics_are_torchserve_s_and_ours(running: Running, portrait: np.ndarray) -> None:
    answer = running.predict({"image": {"b64": b64(encode_png(portrait))}}).json()["predictions"][0]
    text = running.metrics()
    for name in ("ts_inference_requests_total", "Requests2XX", "PredictionTime", "HandlerTime", "QueueTime"):
        assert f"\n{name}" in f"\n{text}", name
    model = f'model="tiny",version="{answer["model"]["version"]}"'
    assert f'rampart_requests_total{{{model},outcome="ok"' in text
    edge = np.ceil(answer["score"] * 20) / 20
    assert f'rampart_fake_score_in_bucket_total{{{model},le="{edge:g}"' in text.replace('le="1.0"', 'le="1"')
    assert "rampart_model_info{" in text
    server = find_spec("ts")
    assert server is not None
    known = yaml.safe_load(Path(str(server.origin)).with_name("configs").joinpath("metrics.yaml").read_text())
    ours = yaml.safe_load((HERE / "metrics.yaml").read_text())
    for section in ("ts_metrics", "model_metrics"):
        for kind, metrics in known[section].items():
            names = [metric["name"] for metric in ours[section][kind]]
            assert {metric["name"] for metric in metrics} <= set(names)


def test_a_token_is_renewed_before_it_expires(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    path = running.home / "key_file.json"
    before = read_token(running.home)
    assert read_token(running.home) == before
    keys = json.loads(path.read_text())
    keys["inference"]["expiration time"] = "2020-01-01T00:00:00Z"
    path.write_text(json.dumps(keys))
    assert main(["token", "--home", str(running.home)]) == 0
    after = capsys.readouterr().out.strip()
    assert after != before
    running.client.headers["Authorization"] = f"Bearer {after}"
    assert running.client.get("/ping").json() == {"status": "Healthy"}
    assert main(["ready", "--home", str(running.home)]) == 0
    keys = json.loads(path.read_text())
    keys["inference"]["expiration time"], keys["API"]["key"] = "2020-01-01T00:00:00Z", "wrong"
    path.write_text(json.dumps(keys))
    with pytest.raises(
        WorkFailed, match=r"expected an answer to /token\?type=inference from TorchServe, got 400"
    ):
        read_token(running.home)


def test_what_is_missing_is_named(
    tmp_path: Path, bundle: Bundle, archived: Bundle, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def lay_out(folder: Bundle, home: Path) -> Launch:
        return prepare(
            str(folder.folder), home, name="tiny", public_key=folder.public_key, settings=None,
            host="127.0.0.1", ports=Ports(),
        )  # fmt: skip

    with pytest.raises(BundleError, match=r"expected detector\.mar in .* publish the model again"):
        lay_out(bundle, tmp_path / "home")
    with pytest.raises(BundleError, match="the signature does not hold"):
        lay_out(Bundle(archived.folder, bundle.public_key), tmp_path / "home")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(ConfigError, match="to be ours alone"):
        lay_out(archived, tmp_path / "open")
    with pytest.raises(ConfigError, match="expected the keys of a running TorchServe"):
        read_token(tmp_path)
    assert main(["ready", "--home", str(tmp_path)]) == 2
    assert "error: expected the keys" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setenv("JAVA_HOME", str(tmp_path))
        with pytest.raises(ConfigError, match="expected Java 11 or newer at"):
            find_java()
        patch.chdir(tmp_path)
        with pytest.raises(WorkFailed, match=r"expected to run /no/java, got: No such file"):
            start(Launch(["/no/java"], {}, tmp_path))
        patch.setattr("serving.torchserve.launch.find_spec", lambda _: None)
        patch.delenv("JAVA_HOME")
        patch.setattr("shutil.which", lambda _: sys.executable)
        assert find_java() == Path(sys.executable)
        with pytest.raises(ConfigError, match="expected TorchServe, but it is not installed"):
            lay_out(archived, tmp_path / "home")


def test_a_server_that_is_gone_is_not_ready(tmp_path: Path) -> None:
    key = {"key": "x", "expiration time": "2999-01-01T00:00:00Z"}
    (tmp_path / "key_file.json").write_text(json.dumps({"management": key}))
    (tmp_path / "config.properties").write_text(f"management_address=http://127.0.0.1:{free_port()}\n")
    with pytest.raises(WorkFailed, match="expected TorchServe at 127"):
        is_ready(tmp_path)


def test_the_serving_runtime_starts_what_is_tested_here() -> None:
    runtime = yaml.safe_load((HERE / "serving-runtime.yaml").read_text())
    assert (runtime["apiVersion"], runtime["kind"]) == ("serving.kserve.io/v1alpha1", "ServingRuntime")
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    module = ["python", "-m", "serving.torchserve"]
    assert container["command"][:3] == module
    given = _parser().parse_args([*container["command"][3:], *container["args"]])
    assert (given.verb, given.model, Ports(*given.ports)) == ("start", "/mnt/models", Ports())
    assert [port["containerPort"] for port in container["ports"]] == [Ports().inference, Ports().metrics]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        command = container[probe]["exec"]["command"]
        assert command[:3] == module
        assert _parser().parse_args(command[3:]).home == given.home
    context = container["securityContext"]
    assert context["runAsNonRoot"]
    assert context["readOnlyRootFilesystem"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(given.home.parent), str(given.public_key.parent)} == mounts


def test_the_settings_are_closed() -> None:
    lines = (HERE / "config.properties").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert settings["disable_token_authorization"] == "false"
    assert settings["enable_model_api"] == "false"
    assert settings["allowed_urls"] == "(?!)"
    assert settings["use_env_allowed_urls"] == settings["enable_envvars_config"] == "false"
    assert int(settings["max_request_size"]) * int(settings["job_queue_size"]) <= 2**29
    assert os.access(HERE / "log4j2.xml", os.R_OK)
