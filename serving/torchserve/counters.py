"""Our metrics in TorchServe's cache; metrics.yaml declares them, this file fills them."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Protocol

from prometheus_client.utils import floatToGoString
from ts.metrics.metric_type_enum import MetricTypes

from dfcore.monitoring import SCORE_BUCKETS
from serving.answers import Answer, ModelIdentity

__all__ = ["Counters"]


class MetricsCache(Protocol):
    """What TorchServe's context offers."""

    def get_metric(self, metric_name: str, metric_type: MetricTypes = ...) -> Any:
        """Return a metric that metrics.yaml declares."""


class Counters:
    """Counts answers and refusals; labels hold names from fixed sets, never what a client sent.

    Args:
        cache: TorchServe's.
        model: which model answers.
    """

    def __init__(self, cache: MetricsCache, model: ModelIdentity) -> None:
        self._cache = cache
        self._model = [model.name, model.version]

    def loaded(self, model: ModelIdentity, threshold: float) -> None:
        """Show which model is served."""
        digest = model.digest.removeprefix("sha256:")  # TorchServe's log lines separate fields by colons
        self._set("rampart_model_info", 1.0, [*self._model, digest])
        self._set("rampart_decision_threshold_ratio", threshold, self._model)

    def answered(self, found: Answer, shown: Answer) -> None:
        """Count one answer, with the scores that the policy may have kept back."""
        self._count("rampart_requests_total", [*self._model, shown.outcome])
        if found.score is not None:
            self._count("rampart_fake_score_in_bucket_total", [*self._model, _bucket(found.score)])
        for kind, value in (found.attack_parts or {}).items():
            self._count("rampart_attack_score_in_bucket_total", [*self._model, kind, _bucket(value)])
        for kind in shown.raised:
            self._count("rampart_attack_flags_total", [*self._model, kind])

    def rejected(self, reason: str) -> None:
        """Count one refusal."""
        self._count("rampart_input_rejected_total", [reason])

    def _count(self, name: str, labels: list[str]) -> None:
        self._cache.get_metric(name, MetricTypes.COUNTER).add_or_update(1, labels)

    def _set(self, name: str, value: float, labels: list[str]) -> None:
        self._cache.get_metric(name, MetricTypes.GAUGE).add_or_update(value, labels)


def _bucket(value: float) -> str:
    """Return the upper edge of a value's bucket, written as in the reference's."""
    index = bisect_left(SCORE_BUCKETS, value)
    if index == len(SCORE_BUCKETS):
        return "+Inf"
    return str(floatToGoString(SCORE_BUCKETS[index]))  # type: ignore[no-untyped-call]  # the library's is bare
