"""Each image of Dockerfile.gpu, built and run as a pod would run it: `pytest tests/images`."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from dfcore.models import load_detector
from tests.images.bundles import make_models, open_to_all
from tests.images.containers import Images, budgets
from tests.release.conftest import parts
from tests.serving.conftest import b64, encode_png, portrait
from tests.training.conftest import write_store

__all__ = ["parts", "portrait"]  # fixtures

pytestmark = pytest.mark.timeout(3600)  # the first build of an image takes minutes

_INDEX = "download.pytorch.org"
_TOOLS = "gcc cc g++ clang ld as make cmake rustc go pip pip3 uv curl wget git"

# what runs in each image; each also carries the others' code. TorchServe's handler and
# its counters are loaded by a test of their own.
_PACKAGES = {
    "train": ("dfcore", "components", "pipelines", "rollout"),
    "serve": ("dfcore", "serving"),
    "torchserve": ("dfcore", "serving"),
}
_IMPORT_ALL = """
import importlib, pkgutil, sys
names = [
    found.name
    for name in sys.argv[1:]
    for found in pkgutil.walk_packages(importlib.import_module(name).__path__, name + ".")
    if not found.name.endswith(("__main__", "torchserve.counters", "torchserve.handler"))
]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


@pytest.fixture(scope="session", params=["serve", "train", "torchserve"])
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def image(images: Images, target: str) -> str:
    return images.build(target)


@pytest.fixture(scope="session")
def serve(images: Images) -> str:
    return images.build("serve")


@pytest.fixture(scope="session")
def train(images: Images) -> str:
    return images.build("train")


@pytest.fixture(scope="session")
def models(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed bundle and who signed it."""
    return make_models(tmp_path_factory.mktemp("models"), parts, "bundle")


def test_it_says_what_it_is_and_keeps_its_budget(images: Images, image: str, target: str) -> None:
    found = images.inspect(image)
    assert found["Config"]["User"] == "65532:65532"
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == f"rampart {target}"
    assert labels["org.opencontainers.image.revision"] == "test"
    checked = found.get("Healthcheck", {}).get("Test", ["NONE"])
    assert checked[0] == ("NONE" if target == "train" else "CMD")
    layers = images.layers(image)
    report = ", ".join(f"{size:.0f} MB" for _, size in layers)
    assert found["Size"] / 1e9 <= budgets()[target], report
    assert layers[-1][1] < 20, f"a change of code sends its layer: {report}"
    print(f"{target}: {found['Size'] / 1e9:.2f} GB; layers {report}")  # noqa: T201  # shown by -s


def test_the_images_share_the_layer_of_torch(images: Images, serve: str, train: str) -> None:
    one, other = (images.inspect(name)["RootFS"]["Layers"] for name in (serve, train))
    shared = sum(a == b for a, b in zip(one, other, strict=False))
    sizes = [size for _, size in images.layers(serve)]
    assert sum(sizes[:shared]) > 0.7 * sum(sizes)


def test_it_holds_no_compiler_and_no_installer(images: Images, image: str) -> None:
    done = images.run(image, "sh", "-c", f"for name in {_TOOLS}; do command -v $name; done; id -u; id -G")
    assert done.stdout.split() == ["65532", "65532"]
    done = images.run(image, "python3", "-c", "import pip")
    assert "No module named 'pip'" in done.stderr


def test_nothing_but_tmp_can_be_written(images: Images, image: str) -> None:
    places = "/ /app /opt/rampart /opt/rampart/lib /usr /var/tmp /run /home"
    done = images.run(
        image, "sh", "-c", f"for place in {places}; do touch $place/x && echo $place; done; touch /tmp/x"
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_command_line_answers(images: Images, image: str) -> None:
    done = images.run(image, "rampart", "--help")
    assert done.returncode == 0, done.stderr
    assert "Train, attack, prove and serve" in done.stdout


def test_every_module_of_its_own_is_found_whole(images: Images, image: str, target: str) -> None:
    done = images.run(image, "python3", "-c", _IMPORT_ALL, *_PACKAGES[target])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_two_steps_of_training(images: Images, train: str, tmp_path: Path) -> None:
    write_store(tmp_path / "data" / "crops")
    open_to_all(tmp_path / "data")
    (tmp_path / "out").mkdir()
    open_to_all(tmp_path / "out", 0o777)
    settings = (
        "model.image_size=32", "data.batch_size=18", "optimiser.epochs=1", "optimiser.warmup_epochs=0",
        "validation.crops=16",
    )  # fmt: skip
    done = images.run(
        train, "rampart", "train", "--recipe", "demo_baseline", "--data", "/data/crops", "--device", "cpu",
        "--out", "/out/model", "--json", *(part for value in settings for part in ("--set", value)),
        mounts=(f"{tmp_path / 'data'}:/data:ro", f"{tmp_path / 'out'}:/out:rw"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "/out/model"
    assert "[train] epoch 1/1, step 1/2, loss" in done.stderr
    assert "[train] epoch 1/1 done" in done.stderr
    load_detector(tmp_path / "out" / "model")


def test_videos_are_rendered_and_their_faces_found(images: Images, train: str) -> None:
    settings = "--set image_size=64 --set frames_per_video=1"
    steps = (
        "rampart data synthesize --layout ffpp --identities 6 --out /tmp/corpus",
        f"rampart data prepare /tmp/corpus --out /tmp/crops --workers 1 {settings}",
        "rampart data verify /tmp/crops",
    )
    done = images.run(train, "sh", "-c", " && ".join(steps), seconds=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pipelines_compile(images: Images, train: str) -> None:
    done = images.run(train, "sh", "-c", "rampart pipeline compile --out /tmp/p.yaml && cat /tmp/p.yaml")
    assert done.returncode == 0, done.stderr
    assert "deploymentSpec" in done.stdout


def test_the_server_answers(
    images: Images, serve: str, models: Path, portrait: np.ndarray, tmp_path: Path
) -> None:
    request = {"instances": [{"image": {"b64": b64(encode_png(portrait))}}]}
    (tmp_path / "request.json").write_text(json.dumps(request), encoding="utf-8")
    arguments = ("--model", "/models/bundle", "--name", "tiny", "--public-key", "/models/rampart.pub")
    with images.start(serve, *arguments, mounts=(f"{models}:/models:ro",), memory="2g") as server:
        server.wait("http://127.0.0.1:8080/v2/models/tiny/ready")
        assert server.healthy()
        done = server.curl("--fail", "http://127.0.0.1:8080/v2/health/live")
        assert json.loads(done.stdout) == {"live": True}
        done = server.curl(
            "--fail", "-H", "Content-Type: application/json",
            "--data-binary", f"@{tmp_path / 'request.json'}", "http://127.0.0.1:8080/v1/models/tiny:predict",
        )  # fmt: skip
        (answer,) = json.loads(done.stdout)["predictions"]
        assert answer["outcome"] == "ok"
        assert 0 <= answer["score"] <= 1
        assert "rampart_" in server.curl("http://127.0.0.1:8080/metrics").stdout
        images.podman("kill", "--signal", "TERM", server.name)
        images.podman("wait", server.name)
        assert images.inspect(server.name)["State"]["ExitCode"] == 0, server.log()[-2000:]


def test_the_server_refuses_what_was_altered(images: Images, serve: str, models: Path) -> None:
    (models / "bundle" / "extra.txt").write_text("not signed", encoding="utf-8")
    try:
        done = images.podman(
            "run", "--rm", "--no-healthcheck", "--network", "none", "--read-only",
            "--volume", f"{models}:/models:ro", serve, "--model", "/models/bundle",
            "--public-key", "/models/rampart.pub", check=False,
        )  # fmt: skip
    finally:
        (models / "bundle" / "extra.txt").unlink()
    assert done.returncode != 0
    assert "the signature does not hold" in done.stderr


def test_torchserve_answers(images: Images, models: Path, portrait: np.ndarray, tmp_path: Path) -> None:
    image = images.build("torchserve")
    (tmp_path / "face.png").write_bytes(encode_png(portrait))
    arguments = ("--model", "/models/bundle", "--name", "tiny", "--public-key", "/models/rampart.pub")
    with images.start(image, *arguments, mounts=(f"{models}:/models:ro",), memory="4g") as server:
        server.wait("http://127.0.0.1:8082/metrics", seconds=180)
        while images.podman(
            "exec", server.name, "python3", "-m", "serving.torchserve", "ready", check=False
        ).returncode:
            assert images.inspect(server.name)["State"]["Running"], server.log()[-3000:]
        assert server.healthy()
        token = images.podman(
            "exec", server.name, "python3", "-m", "serving.torchserve", "token"
        ).stdout.strip()
        done = server.curl(
            "--fail", "-H", f"Authorization: Bearer {token}", "-T", str(tmp_path / "face.png"),
            "http://127.0.0.1:8080/predictions/tiny",
        )  # fmt: skip
        assert json.loads(done.stdout)["outcome"] == "ok"


def test_the_cpu_image_holds_no_cuda(images: Images) -> None:
    try:
        socket.create_connection((_INDEX, 443), timeout=5).close()
    except OSError:
        pytest.skip(
            f"serve, TORCH_BACKEND=cpu: its wheels come from {_INDEX}, which can't be reached from here"
        )
    image = images.build("serve", "cpu")
    pattern = r"site-packages/(nvidia|triton)|lib(cud|cublas|cufft|torch_cuda|nccl)"
    done = images.run(image, "sh", "-c", f"find / -xdev 2> {os.devnull} | grep -E '{pattern}'")
    assert done.stdout == ""
    assert images.inspect(image)["Size"] / 1e9 <= budgets()["serve-cpu"]
