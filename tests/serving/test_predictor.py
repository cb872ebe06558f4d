"""The predictor in this process: addresses, refusals, arrays."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from dfcore.errors import BundleError, ConfigError, MediaError, ShapeError
from dfcore.provenance import sha256_file
from dfcore.release import Registry
from serving import Predictor, ServerSettings
from serving.server import check_port_free
from tests.serving.conftest import SIZE, Bundle, write_training_output


@pytest.fixture(scope="module")
def predictor(bundle: Bundle) -> Predictor:
    return Predictor(bundle.folder, public_key=bundle.public_key)


def test_image_score_is_that_of_the_most_suspicious_face(predictor: Predictor, portrait: np.ndarray) -> None:
    answer = predictor.predict_image(np.concatenate([portrait, portrait[:, ::-1]], axis=1))
    assert len(answer.faces) == 2
    assert answer.score == max(face.score for face in answer.faces)


def test_too_many_faces_are_refused_rather_than_left_out(
    predictor: Predictor, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "max_faces", 1)
    assert predictor.predict_image(portrait).outcome == "ok"
    with pytest.raises(MediaError, match="at most max_faces=1, got 2"):
        predictor.predict_image(np.concatenate([portrait, portrait[:, ::-1]], axis=1))


def test_video_from_a_file_equals_its_bytes(predictor: Predictor, clip: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip)
    assert predictor.predict_video(path) == predictor.predict_video(clip)


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_wrong_array_is_refused(predictor: Predictor, image: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="expected an image uint8"):
        predictor.predict_image(image)
    with pytest.raises(ShapeError, match=f"{SIZE}, {SIZE}, 3"):
        predictor.predict_crops(image)


def test_registry_address_gives_the_version(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "registry"
    monkeypatch.setenv("RAMPART_REGISTRY", str(root))
    registry = Registry(str(root))
    version = registry.publish("tiny", bundle.folder, public_key=bundle.public_key)
    registry.promote("tiny", version, "production", "tester", "test")
    identity = Predictor("registry://tiny@production", name="tiny").identity
    assert identity.version == version
    assert identity.digest == f"sha256:{sha256_file(bundle.folder / 'manifest.json')}"
    assert Predictor(f"registry://tiny@{version}").identity.version == version


def test_altered_or_unsigned_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    altered = shutil.copytree(bundle.folder, tmp_path / "altered")
    (altered / "reference.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError):
        Predictor(altered, public_key=bundle.public_key)
    unsigned = write_training_output(tmp_path / "unsigned")
    with pytest.raises(BundleError, match=r"without manifest\.json and signature\.json"):
        Predictor(unsigned)
    loaded = Predictor(unsigned, allow_unsigned=True)
    assert loaded.histograms == {}
    assert loaded.predict_crops(np.zeros((1, SIZE, SIZE, 3), np.uint8))[0].attack_score is None
    (unsigned / "reference.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match="histograms"):
        Predictor(unsigned, allow_unsigned=True)


def test_taken_port_is_refused() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        port = holder.getsockname()[1]
        with pytest.raises(ConfigError, match=f"{port} can't be used"):
            check_port_free(port)
    check_port_free(port)


@pytest.mark.parametrize("prefix", ["s3://bucket", "/data/", "bucket/"])
def test_allow_list_takes_only_closed_prefixes(prefix: str) -> None:
    with pytest.raises(ConfigError, match="expected a prefix such as"):
        ServerSettings.parse({"allowed_prefixes": [prefix]})
