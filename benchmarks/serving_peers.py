"""What `benchmarks.serving` compares with: the servers that the two projects' documentation leads to.

Both score one instance after the other, with the same detector, face detector and image decoder as ours, in
PyTorch as the detector was saved: a `kserve.Model` with a synchronous `predict`, and TorchServe with a
handler that takes base64 in JSON.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dfcore.models import Detector, load_detector
from dfcore.preprocessing import build_face_detector, crop_face, decode_image
from dfcore.preprocessing.video import Frame
from rampart.server_process import free_port

__all__ = ["Sample"]

_ARCHIVE = "bench.mar"


class Sample:
    """Everything in one call, as samples do it.

    Args:
        folder: of the detector.
        threads: of PyTorch.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.detector: Detector = load_detector(folder)
        card = self.detector.card
        assert card is not None, "saved by the benchmark"
        self.preprocessing = card.preprocessing
        self.faces = build_face_detector(self.preprocessing)

    def score(self, crops: np.ndarray) -> list[float]:
        """Return P(fake) of crops uint8 (N, S, S, 3)."""
        with torch.inference_mode():
            images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
            return [float(value) for value in self.detector(images).sigmoid()]

    def predict(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Answer {"instances": [{"image": {"b64": …}}, …]} or {"instances": [{"crop": […]}, …]}."""
        instances = payload["instances"]
        if "crop" in instances[0]:
            return {"predictions": self.score(np.array([item["crop"] for item in instances], dtype=np.uint8))}
        return {"predictions": [self._image(base64.b64decode(item["image"]["b64"])) for item in instances]}

    def _image(self, data: bytes) -> float | None:
        image = decode_image(data)
        (faces,) = self.faces.detect([image], min_face=self.preprocessing.min_face)
        kept = [face for face in faces if face.confidence >= self.preprocessing.min_confidence]
        frame = Frame(image, 0, 0.0)
        size, margin = self.preprocessing.image_size, self.preprocessing.margin
        crops = [crop_face(frame, face, size, margin).image for face in kept]
        return max(self.score(np.stack(crops))) if crops else None


def serve_kserve(folder: Path, name: str, port: int, threads: int) -> None:
    """Serve until killed; one process, since the SDK's `predict` holds its event loop."""
    from serving._kserve import Model, ModelServer

    sample = Sample(folder, threads)

    class Served(Model):  # type: ignore[misc]  # KServe ships no types
        def predict(self, payload: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
            return sample.predict(payload)

    model = Served(name)
    model.ready = True
    ModelServer(http_port=port, enable_grpc=False, workers=1).start([model])


def serve_torchserve(folder: Path, name: str, port: int, workers: int) -> None:
    """Become TorchServe: `workers` processes of one thread each, which is what it does with cores."""
    from serving.torchserve.launch import find_java

    home = folder.parent / f"torchserve-{port}"
    home.mkdir()
    manifest = {
        "runtime": "python",
        "model": {"modelName": name, "modelVersion": "1.0", "handler": "benchmarks.torchserve_handler"},
    }
    with zipfile.ZipFile(home / _ARCHIVE, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        for path in folder.iterdir():
            archive.write(path, path.name)
    lines = {
        "inference_address": f"http://127.0.0.1:{port}",
        "management_address": f"http://127.0.0.1:{free_port()}",
        "metrics_address": f"http://127.0.0.1:{free_port()}",
        "grpc_inference_port": str(free_port()),
        "grpc_management_port": str(free_port()),
        "default_workers_per_model": str(workers),
        "disable_token_authorization": "true",
    }
    config = home / "config.properties"
    config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()), encoding="utf-8")
    spec = find_spec("ts")
    if spec is None or spec.origin is None:
        raise SystemExit("expected TorchServe, but it is not installed; install rampart[torchserve]")
    server, java = Path(spec.origin).parent.parent, str(find_java())
    command = [
        java, f"-Djava.io.tmpdir={home}", f"-Dmodel_server_home={server}",
        "-cp", str(server / "ts" / "frontend" / "*"), "org.pytorch.serve.ModelServer",
        "--python", sys.executable, "-f", str(config), "-s", str(home), "-ncs", "-m", f"{name}={_ARCHIVE}",
    ]  # fmt: skip
    # our own process becomes Java, so that the signal that ends it reaches it
    places = {"PYTHONPATH": str(Path.cwd()), "LOG_LOCATION": str(home), "METRICS_LOCATION": str(home)}
    os.chdir(home)
    os.execve(java, command, {**os.environ, **places})  # noqa: S606  # no shell is wanted


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_peers", description=__doc__)
    parser.add_argument("peer", choices=["kserve", "torchserve"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("threads", type=int)
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    serve = serve_kserve if given.peer == "kserve" else serve_torchserve
    serve(given.folder, given.name, given.port, given.threads)


if __name__ == "__main__":
    main()
