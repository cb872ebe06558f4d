"""The candidate against the stable version: equal passes, worse does not, unknown does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from rollout import Analysis, Check, Prometheus, Versions, judge
from tests.rollout.prometheus import Series, healthy, serve_prometheus

_VERSIONS = Versions("serving", "faces", "v0001-aaaaaaaa", "v0002-bbbbbbbb")


def _judge(answer: Callable[[str], Series | int]) -> dict[str, Check]:
    with serve_prometheus(answer) as address:
        settings = Analysis(prometheus=address)
        return {check.name: check for check in judge(Prometheus(settings), settings, _VERSIONS, 600)}


def _about(query: str, metric: str) -> bool:
    """Whether a query is about this metric of the candidate."""
    return metric in query and _VERSIONS.candidate in query


def test_equal_versions_pass() -> None:
    checks = _judge(healthy)
    assert list(checks) == ["requests", "errors", "latency", "score drift", "attack flags"]
    assert all(check.passed for check in checks.values())
    assert checks["score drift"].candidate == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("metric", "answer", "failed"),
    [
        ("input_rejected", [({}, 30.0)], "errors"),
        ('outcome="error"', [({}, 30.0)], "errors"),
        ("histogram_quantile", [({}, 0.07)], "latency"),
        ("attack_flags", [({}, 80.0)], "attack flags"),
        (
            "fake_score_bucket",
            [
                ({"le": e}, c)
                for e, c in zip(("0.25", "0.5", "0.75", "1.0", "+Inf"), (5, 6, 7, 100, 100), strict=True)
            ],
            "score drift",
        ),
    ],
)
def test_a_worse_candidate_is_stopped_by_what_is_worse(metric: str, answer: Series, failed: str) -> None:
    checks = _judge(lambda query: answer if _about(query, metric) else healthy(query))
    assert [name for name, check in checks.items() if not check.passed] == [failed]
    assert not checks[failed].pending


@pytest.mark.parametrize(
    ("metric", "answer", "failed"),
    [
        ("histogram_quantile", [], "latency"),
        ("histogram_quantile", [({}, math.nan)], "latency"),
        ("fake_score_bucket", [], "score drift"),
        ("fake_score_bucket", [({"le": "1.0"}, 5.0)], "score drift"),
    ],
)
def test_without_data_nothing_passes(metric: str, answer: Series, failed: str) -> None:
    checks = _judge(lambda query: answer if _about(query, metric) else healthy(query))
    assert "not judged, so not passed" in checks[failed].detail
    assert not checks[failed].passed
    nothing = _judge(lambda _: [])
    assert list(nothing) == ["requests"]
    assert not nothing["requests"].passed
    assert nothing["requests"].pending, "more time may bring requests"


def test_a_stable_version_without_requests_is_no_measure() -> None:
    def answer(query: str) -> Series:
        return [] if "requests_total" in query and _VERSIONS.stable in query else healthy(query)

    assert not _judge(answer)["errors"].passed
    assert not _judge(answer)["attack flags"].passed


def test_few_requests_wait_for_more() -> None:
    checks = _judge(lambda query: [({}, 99.0)] if "requests_total" in query else healthy(query))
    assert list(checks) == ["requests"]
    assert "99 answered, at least 100" in checks["requests"].detail


def test_a_prometheus_that_is_away_or_refuses_passes_nothing(tmp_path: Path) -> None:
    assert "HTTP 503" in _judge(lambda _: 503)["prometheus"].detail
    settings = Analysis(prometheus="http://127.0.0.1:9")
    (check,) = judge(Prometheus(settings), settings, _VERSIONS, 60)
    assert not check.passed
    assert "check the address" in check.detail
    path = tmp_path / "token"
    path.write_text("secret\n")
    with serve_prometheus(healthy, token="secret") as address:
        known = Analysis(prometheus=address, token_file=path)
        assert all(item.passed for item in judge(Prometheus(known), known, _VERSIONS, 60))
        unknown = Analysis(prometheus=address)
        assert "HTTP 401" in judge(Prometheus(unknown), unknown, _VERSIONS, 60)[0].detail
