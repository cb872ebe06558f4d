"""Is the candidate worse than the stable version? Asked of Prometheus; what it can't answer is a no.

Both versions get requests of the same kind at the same time, so each figure is compared, not held against a
fixed bound.
"""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from dfcore.config import Config
from dfcore.errors import WorkFailed
from rollout.settings import Analysis

__all__ = ["Check", "Prometheus", "Versions", "judge"]

_SECONDS = 15
_SMALLEST = 1e-4  # an empty bucket counts as this share, or one missing score would be infinitely far


class Check(Config):
    """One question about the candidate.

    Attributes:
        candidate, stable: the figures; None where there is none.
        bound: what the comparison may reach.
        pending: only too few requests so far; more time may help.
    """

    name: str
    passed: bool
    detail: str
    candidate: float | None = None
    stable: float | None = None
    bound: float | None = None
    pending: bool = False


class Versions(NamedTuple):
    """What is compared: a namespace's pods by the version that they serve."""

    namespace: str
    model: str
    stable: str
    candidate: str


class Prometheus:
    """The query API of one server."""

    def __init__(self, settings: Analysis) -> None:
        """Read the token; nothing is asked yet."""
        self._address = settings.prometheus
        self._headers = {"Accept": "application/json"}
        if settings.token_file is not None:
            token = settings.token_file.read_text(encoding="utf-8").strip()
            self._headers["Authorization"] = f"Bearer {token}"

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and values of an instant query.

        Raises:
            WorkFailed: no server, or one that refuses.
        """
        request = urllib.request.Request(  # noqa: S310  # Analysis lets only http and https through
            f"{self._address}/api/v1/query?{urlencode({'query': expression})}", headers=self._headers
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
                document: dict[str, Any] = json.loads(answer.read())
            found = document["data"]["result"]
            return [(dict(item["metric"]), float(item["value"][1])) for item in found]
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(500).decode(errors="replace")
            raise WorkFailed(
                f"expected an answer of Prometheus at {self._address}, got HTTP {error.code}: {said}"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise WorkFailed(
                f"expected an answer of Prometheus at {self._address}, got: {error}; check the address"
            ) from error


def judge(
    prometheus: Prometheus, settings: Analysis, versions: Versions, seconds: float
) -> tuple[Check, ...]:
    """Compare the candidate with the stable version.

    Args:
        prometheus: where the figures are.
        settings: bounds.
        versions: who is compared.
        seconds: how far the figures reach back.
    """
    try:
        asked = _Questions(prometheus, versions, max(1, round(seconds)))
        answered = {who: asked.total(_answered(who)) for who in (versions.candidate, versions.stable)}
        enough = _requests(answered[versions.candidate], settings)
        if not enough.passed:
            return (enough,)
        return (enough, _errors(asked, settings, answered), _latency(asked, settings),
                _scores(asked, settings), _flags(asked, settings, answered))  # fmt: skip
    except WorkFailed as error:
        return (Check(name="prometheus", passed=False, detail=str(error)),)


class _Questions:
    """Queries over one window, for one model in one namespace."""

    def __init__(self, prometheus: Prometheus, versions: Versions, seconds: int) -> None:
        self._prometheus, self.versions, self._window = prometheus, versions, f"[{seconds}s]"

    def total(self, metric: str) -> float | None:
        """Return the increase of a counter by version; None where there is no series."""
        found = self._prometheus.query(f"sum(increase({self._filled(metric)}{self._window}))")
        return _finite(found[0][1]) if found else None

    def buckets(self, metric: str) -> dict[float, float]:
        """Return the cumulative increase of a histogram's buckets by upper edge."""
        found = self._prometheus.query(f"sum by (le) (increase({self._filled(metric)}{self._window}))")
        return {float(labels["le"]): value for labels, value in found if math.isfinite(value)}

    def on_pods(self, version: str, expression: str) -> float | None:
        """Return what an expression over pods gives; `{pods}` in it keeps those that serve a version."""
        info = self._filled(f'rampart_model_info{{version="{version}"}}')
        pods = f"* on (namespace, pod) group_left () (max by (namespace, pod) ({info}) == 1)"
        space = f'namespace="{self.versions.namespace}"'
        query = expression.format(space=space, window=self._window, pods=pods)
        found = self._prometheus.query(query)
        return _finite(found[0][1]) if found else None

    def _filled(self, metric: str) -> str:
        versions = self.versions
        return metric.replace("{", f'{{namespace="{versions.namespace}",model="{versions.model}",', 1)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _answered(version: str) -> str:
    return f'rampart_requests_total{{version="{version}"}}'


def _requests(answered: float | None, settings: Analysis) -> Check:
    count, least = answered or 0.0, settings.minimum_requests
    passed = count >= least
    detail = f"{count:.0f} answered, at least {least} are needed to judge"
    return Check(
        name="requests", passed=passed, detail=detail, candidate=answered, bound=least, pending=not passed
    )


def _errors(asked: _Questions, settings: Analysis, answered: Mapping[str, float | None]) -> Check:
    """Refused or failed requests; a counter that never moved has no series, which is none of them."""
    shares = {}
    for version, good in answered.items():
        bad = asked.on_pods(
            version, "sum(increase(rampart_input_rejected_total{{{space}}}{window}) {pods})"
        )  # fmt: skip
        failed = asked.total(f'rampart_requests_total{{version="{version}",outcome="error"}}')
        lost = (bad or 0.0) + (failed or 0.0)
        shares[version] = None if good is None else lost / max(good + (bad or 0.0), 1.0)
    return _increase("errors", asked.versions, shares, settings.maximum_error_increase)


def _flags(asked: _Questions, settings: Analysis, answered: Mapping[str, float | None]) -> Check:
    shares = {}
    for version, good in answered.items():
        raised = asked.total(f'rampart_attack_flags_total{{version="{version}"}}')
        shares[version] = None if good is None else (raised or 0.0) / max(good, 1.0)
    return _increase("attack flags", asked.versions, shares, settings.maximum_flag_increase)


def _increase(name: str, versions: Versions, shares: Mapping[str, float | None], bound: float) -> Check:
    ours, theirs = shares[versions.candidate], shares[versions.stable]
    if ours is None or theirs is None:
        return _unknown(name, ours, theirs, bound)
    detail = f"{ours:.2%} of requests, stable {theirs:.2%}; may be {bound:.2%} more"
    return Check(
        name=name, passed=ours - theirs <= bound, detail=detail, candidate=ours, stable=theirs, bound=bound
    )


def _latency(asked: _Questions, settings: Analysis) -> Check:
    expression = (
        f"histogram_quantile({settings.latency_quantile:g}, sum by (le) (increase("
        'rampart_request_seconds_bucket{{{space},stage="score"}}{window}) {pods}))'
    )
    versions = asked.versions
    ours = asked.on_pods(versions.candidate, expression)
    theirs = asked.on_pods(versions.stable, expression)
    bound = settings.maximum_latency_ratio
    if ours is None or theirs is None:
        return _unknown("latency", ours, theirs, bound)
    quantile = f"{settings.latency_quantile:g} quantile"
    detail = f"{ours:.3f} s at the {quantile}, stable {theirs:.3f} s; may be {bound:g} times"
    return Check(
        name="latency",
        passed=ours <= bound * theirs,
        detail=detail,
        candidate=ours,
        stable=theirs,
        bound=bound,
    )


def _scores(asked: _Questions, settings: Analysis) -> Check:
    versions, bound = asked.versions, settings.maximum_score_psi
    ours, theirs = (
        asked.buckets(f'rampart_fake_score_bucket{{version="{version}"}}')
        for version in (versions.candidate, versions.stable)
    )
    if not ours or sorted(ours) != sorted(theirs) or not max(ours.values()) or not max(theirs.values()):
        return _unknown("score drift", None, None, bound)
    distance = _psi(_shares(theirs), _shares(ours))
    detail = f"PSI {distance:.3f} between the scores of both, at most {bound:g}"
    return Check(name="score drift", passed=distance <= bound, detail=detail, candidate=distance, bound=bound)


def _shares(cumulative: Mapping[float, float]) -> list[float]:
    values = [cumulative[edge] for edge in sorted(cumulative)]
    counts = [max(0.0, upper - lower) for lower, upper in zip([0.0, *values], values, strict=False)]
    return [max(count / (sum(counts) or 1.0), _SMALLEST) for count in counts]


def _psi(reference: list[float], found: list[float]) -> float:
    return sum((b - a) * math.log(b / a) for a, b in zip(reference, found, strict=True))


def _unknown(name: str, ours: float | None, theirs: float | None, bound: float) -> Check:
    missing = " and ".join(who for who, value in (("candidate", ours), ("stable", theirs)) if value is None)
    detail = f"no data of the {missing or 'versions'}: not judged, so not passed"
    return Check(name=name, passed=False, detail=detail, candidate=ours, stable=theirs, bound=bound)
