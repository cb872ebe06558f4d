"""python -m tests.preprocessing.golden.make_golden PYTHON: ask the reference implementations for their faces.

PYTHON is the interpreter of an environment of their own, because facenet-pytorch pins an old torch:

    uv venv --python 3.11 peers
    uv pip install --python peers/bin/python facenet-pytorch==2.6.0 mtcnn==1.0.0 tensorflow-cpu==2.21.0
    python -m tests.preprocessing.golden.make_golden peers/bin/python

Both run with their own defaults, but for the smallest face (40 pixels).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from dfcore.data import synthetic
from tests.preprocessing.golden.pictures import CORPUS, draw

GOLDEN = Path(__file__).with_name("faces.json")
MIN_FACE = 40

# Runs where dfcore is not installed; argument 1 is the file of pictures.
_PEER = f"""
import importlib.metadata, json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
pictures = dict(np.load(sys.argv[1]))

def facenet():
    from facenet_pytorch import MTCNN
    detector = MTCNN(min_face_size={MIN_FACE}, keep_all=True)
    for name, image in pictures.items():
        boxes, scores, points = detector.detect(image, landmarks=True)
        found = [] if boxes is None else zip(boxes, points, scores)
        yield name, [{{"box": b.tolist(), "landmarks": p.tolist(), "confidence": float(s)}}
                     for b, p, s in found]

def mtcnn():
    from mtcnn import MTCNN
    from mtcnn.stages import stage_pnet
    # Its count of levels ignores min_face_size: above the default of 20 the last ones are smaller than the
    # network's field, which raises inside and comes out as "no face". Those levels are left out here.
    scales = stage_pnet.build_scale_pyramid
    stage_pnet.build_scale_pyramid = lambda width, height, **settings: (
        lambda found: found[found * min(width, height) >= 12])(scales(width, height, **settings))
    detector = MTCNN()
    for name, image in pictures.items():
        rows = detector.detect_faces(
            image, fit_to_image=False, box_format="xyxy", output_type="numpy", min_face_size={MIN_FACE}
        )
        yield name, [{{"box": r[1:5].tolist(), "landmarks": np.stack((r[6:11], r[11:16]), 1).tolist(),
                       "confidence": float(r[5])}} for r in rows]

packages = ("facenet-pytorch", "mtcnn", "torch", "tensorflow-cpu", "numpy")
print(json.dumps({{
    "versions": {{name: importlib.metadata.version(name) for name in packages}},
    "facenet_pytorch": dict(facenet()), "mtcnn": dict(mtcnn()),
}}))
"""


def digest(image: np.ndarray) -> str:
    """Tell whether a picture is still the one that the references saw."""
    return hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest()


def write_corpus() -> None:
    """Keep frames of four people of `rampart data synthesize`, side by side."""
    frames = []
    for person in range(4):
        video = synthetic._Video(Path("unused"), person, person, None, 0, 23)
        frames.append(list(synthetic._render((0, 1), video))[4 * person][12:188, 40:216])
    Image.fromarray(np.concatenate(frames, axis=1)).save(CORPUS, optimize=True)


def main(python: str) -> None:
    """Write the golden values."""
    if not CORPUS.exists():
        write_corpus()
    pictures = draw()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pictures.npz"
        np.savez(path, **pictures)  # type: ignore[arg-type]  # the stubs take the names for allow_pickle
        done = subprocess.run([python, "-c", _PEER, str(path)], check=True, capture_output=True, text=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    golden = {"versions": answer.pop("versions"), "pictures": {}}
    for name, image in pictures.items():
        golden["pictures"][name] = {"sha256": digest(image)} | {
            peer: [_rounded(face) for face in found[name]] for peer, found in answer.items()
        }
    lines = ",\n".join(f'  "{name}": {json.dumps(value)}' for name, value in golden["pictures"].items())
    text = f'{{"versions": {json.dumps(golden["versions"])},\n "pictures": {{\n{lines}\n}}}}\n'
    GOLDEN.write_text(text, encoding="utf-8")


def _rounded(face: dict[str, object]) -> dict[str, object]:
    return {key: np.round(np.array(value), 3).tolist() for key, value in face.items()}


if __name__ == "__main__":
    main(sys.argv[1])
