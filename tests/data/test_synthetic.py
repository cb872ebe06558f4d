"""The synthetic corpus: right layout, same seed same pixels, and no shortcut to the label."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dfcore.data import synthesize
from dfcore.errors import ConfigError, DataError
from dfcore.preprocessing import decode_video
from dfcore.preprocessing.mtcnn import MTCNN


@pytest.fixture(scope="module")
def ffpp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize("ffpp", tmp_path_factory.mktemp("corpora") / "ffpp", identities=16, seed=7)


@pytest.fixture(scope="module")
def celebdf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize("celebdf", tmp_path_factory.mktemp("corpora") / "celebdf", identities=6, seed=7)


def test_ffpp_has_the_published_layout(ffpp: Path) -> None:
    names = {f"{i:03d}.mp4" for i in range(16)}
    pairs = [pair for split in ("train", "val", "test") for pair in _split(ffpp, split)]
    assert sorted(name for pair in pairs for name in pair) == sorted(name[:-4] for name in names)
    for quality in ("c23", "c40"):
        original = ffpp / "original_sequences/youtube" / quality / "videos"
        assert {path.name for path in original.iterdir()} == names
        for method in ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"):
            fakes = ffpp / "manipulated_sequences" / method / quality / "videos"
            expected = {f"{a}_{b}.mp4" for a, b in pairs} | {f"{b}_{a}.mp4" for a, b in pairs}
            assert {path.name for path in fakes.iterdir()} == expected


def _split(root: Path, name: str) -> list[list[str]]:
    pairs: list[list[str]] = json.loads((root / "splits" / f"{name}.json").read_text())
    return pairs


def test_celebdf_has_the_published_layout(celebdf: Path) -> None:
    lines = [line.split(" ") for line in (celebdf / "List_of_testing_videos.txt").read_text().splitlines()]
    assert {(label, name.split("/")[0]) for label, name in lines} == {
        ("1", "Celeb-real"),
        ("1", "YouTube-real"),
        ("0", "Celeb-synthesis"),
    }
    assert all((celebdf / name).is_file() for _, name in lines)


def test_videos_are_h264(ffpp: Path) -> None:
    with av.open(str(ffpp / "original_sequences/youtube/c23/videos/000.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 256, 256)


def test_same_seed_same_pixels(celebdf: Path, tmp_path: Path) -> None:
    again = synthesize("celebdf", tmp_path / "again", identities=6, seed=7)
    other = synthesize("celebdf", tmp_path / "other", identities=6, seed=8)
    for path in celebdf.rglob("*.mp4"):
        twin = again / path.relative_to(celebdf)
        assert path.read_bytes() == twin.read_bytes()
    name = "Celeb-real/id0_0000.mp4"
    assert (celebdf / name).read_bytes() != (other / name).read_bytes()


def test_nothing_cheap_gives_the_label_away(ffpp: Path) -> None:
    """A linear model on file size, bit rate, mean colour and the frame border stays near chance."""
    videos = sorted(ffpp.rglob("c23/videos/*.mp4"))
    labels = np.array(["manipulated" in str(path) for path in videos])
    groups = np.array([int(path.stem[:3]) for path in videos])
    features = np.array([_cheap_features(path) for path in videos])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced"))
    splits = [(np.flatnonzero(groups % 4 != k), np.flatnonzero(groups % 4 == k)) for k in range(4)]
    scores = cross_val_predict(model, features, labels, cv=splits, method="decision_function")
    assert roc_auc_score(labels, scores) <= 0.6


def _cheap_features(path: Path) -> list[float]:
    frames = np.stack([frame.image for frame in decode_video(path, 4)]).astype(float)
    with av.open(str(path)) as container:
        bit_rate = float(container.bit_rate)
    border = np.concatenate([frames[:, :8].reshape(-1, 3), frames[:, -8:].reshape(-1, 3)])
    return [path.stat().st_size, bit_rate, *frames.mean((0, 1, 2)), *border.mean(0), *border.std(0)]


def test_mtcnn_finds_the_faces(ffpp: Path, celebdf: Path) -> None:
    videos = [*sorted(ffpp.rglob("*.mp4"))[::4], *sorted(celebdf.rglob("*.mp4"))]
    frames = [frame.image for path in videos for frame in decode_video(path, 2)]
    found = [any(face.confidence >= 0.9 for face in faces) for faces in MTCNN().detect(frames)]
    assert np.mean(found) >= 0.99


@pytest.mark.parametrize(
    ("layout", "identities", "message"),
    [("ffp", 8, "did you mean 'ffpp'"), ("ffpp", 7, "an even number"), ("ffpp", 2, "at least 6")],
)
def test_wrong_arguments_are_refused(tmp_path: Path, layout: str, identities: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synthesize(layout, tmp_path / "out", identities=identities, seed=0)
    assert not any(tmp_path.iterdir())


def test_an_occupied_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(DataError, match="new or empty"):
        synthesize("ffpp", tmp_path, identities=6, seed=0)
    assert (tmp_path / "mine").read_text() == "keep"
