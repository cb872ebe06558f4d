"""A transformer whose predictor is gone, busy, broken or another one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest

from serving.admission import Overloaded
from serving.remote import PredictorUnavailable, RemoteScorer
from serving.settings import ServerSettings
from tests.http_server import serve
from tests.serving.conftest import free_port

CROPS = np.zeros((2, 8, 8, 3), np.uint8)
ANSWER = {
    "outcome": "ok", "label": "real", "score": 0.25, "threshold": 0.5, "attack_score": 0.5,
    "attack_parts": {"frequency": 0.5}, "raised": ["frequency"],
    "model": {"name": "m", "version": "v", "digest": "d"},
}  # fmt: skip


def scorer(port: int, protocol: str = "v2") -> RemoteScorer:
    settings = {
        "role": "transformer", "predictor_host": f"127.0.0.1:{port}", "predictor_protocol": protocol,
        "deadline_seconds": 5,
    }  # fmt: skip
    return RemoteScorer("m", ServerSettings.parse(settings))


@contextmanager
def answering(status: int, *answers: object) -> Iterator[int]:
    """Run a predictor that always says the same."""
    body = json.dumps({"outputs": [{"data": [json.dumps(answer) for answer in answers]}]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with serve(Handler) as address:
        yield int(address.rpartition(":")[2])


def test_scores_and_signs_come_back() -> None:
    with answering(200, ANSWER, {**ANSWER, "raised": ["combined"]}) as port:
        found = scorer(port).score(CROPS)
    assert found.judged.scores.tolist() == [0.25, 0.25]
    assert {kind: flags.tolist() for kind, flags in found.judged.flags.items()} == {
        "frequency": [True, False],
        "combined": [False, True],
    }
    assert found.judged.features.shape == (2, 0)
    assert (found.threshold, found.model.version if found.model else "") == (0.5, "v")


def test_without_calibrated_signs_there_are_none() -> None:
    plain = {**ANSWER, "attack_score": None, "attack_parts": None, "raised": []}
    with answering(200, plain, plain) as port:
        assert scorer(port).score(CROPS).judged.flags == {}


def test_a_predictor_that_does_not_answer_is_a_503() -> None:
    for protocol in ("v2", "grpc-v2"):
        with pytest.raises(PredictorUnavailable, match="expected the predictor to answer"):
            scorer(free_port(), protocol).score(CROPS)
    with answering(500) as port, pytest.raises(PredictorUnavailable, match="expected 200"):
        scorer(port).score(CROPS)
    with answering(200, ANSWER) as port, pytest.raises(PredictorUnavailable, match="expected 2 scores"):
        scorer(port).score(CROPS)


def test_a_busy_predictor_is_a_429() -> None:
    with answering(429) as port, pytest.raises(Overloaded, match="predictor's queue"):
        scorer(port).score(CROPS)
