"""Every Prometheus metric of the server, defined once; KServe's `/metrics` shows them.

Labels hold names from fixed sets, and the versions that this process served last: never anything that a
client sent.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

from dfcore.monitoring import SCORE_BUCKETS
from dfcore.monitoring.scorer import COMBINED
from serving.answers import Answer, ModelIdentity, VideoAnswer

__all__ = [
    "fingerprint_failures",
    "in_flight",
    "input_rejected",
    "observe_answer",
    "observe_failure",
    "observe_flags",
    "payload_rows_dropped",
    "publish_model",
    "registry",
    "reloads",
    "request_seconds",
]

_MODEL = ("model", "version")
_FACES = (0, 1, 2, 4, 8, 16, 32, 64)
_QUALITY = tuple(float(2**power) for power in range(15))

_requests = Counter(
    "rampart_requests_total",
    "Images and videos by their answers' outcome; requests that failed for our own fault as error.",
    (*_MODEL, "outcome"),
)
request_seconds = Histogram("rampart_request_seconds", "Time in one stage of a request.", ("stage",))
_fake_score = Histogram(
    "rampart_fake_score", "P(fake) of the answered inputs.", _MODEL, buckets=SCORE_BUCKETS
)
_attack_score = Histogram(
    "rampart_attack_score",
    "Share of clean crops of like quality that show less of a sign of an attack.",
    (*_MODEL, "kind"),
    buckets=SCORE_BUCKETS,
)
_attack_flags = Counter(
    "rampart_attack_flags_total", "Inputs with a sign of an attack beyond its threshold.", (*_MODEL, "kind")
)
fingerprint_failures = Counter(
    "rampart_fingerprint_failures_total", "Times that the store of query fingerprints did not answer."
)
payload_rows_dropped = Gauge(
    "rampart_payload_rows_dropped",
    "Rows of the payload log given up since the start, because its store did not take them.",
    multiprocess_mode="livesum",
)
input_rejected = Counter("rampart_input_rejected_total", "Requests answered with a 4xx.", ("reason",))
reloads = Counter("rampart_reloads_total", "New versions that were loaded, or refused.", ("outcome",))
in_flight = Gauge(
    "rampart_requests_in_flight", "Requests that are computed or wait.", multiprocess_mode="livesum"
)
_faces_per_input = Histogram(
    "rampart_faces_per_input", "Faces scored in one image or video.", _MODEL, buckets=_FACES
)
_input_quality = Histogram(
    "rampart_input_quality",
    "Longer side of the face in pixels (face_size); variance of the Laplacian (blur).",
    (*_MODEL, "kind"),
    buckets=_QUALITY,
)
_model_info = Gauge(
    "rampart_model_info", "The model that is served; 1, and 0 for the one before.", (*_MODEL, "digest"),
    multiprocess_mode="mostrecent",
)  # fmt: skip
_decision_threshold = Gauge(
    "rampart_decision_threshold_ratio", "Score from which an input is fake.", _MODEL,
    multiprocess_mode="mostrecent",
)  # fmt: skip
_reference_bucket_ratio = Gauge(
    "rampart_reference_bucket_ratio",
    "Share of the frozen reference in the one bucket that ends at le (not cumulative).",
    (*_MODEL, "histogram", "le"),
    multiprocess_mode="mostrecent",
)
_BY_VERSION = (
    _requests, _fake_score, _attack_score, _attack_flags, _faces_per_input, _input_quality, _model_info,
    _decision_threshold, _reference_bucket_ratio,
)  # fmt: skip
_KEPT_VERSIONS = 2
_served: deque[ModelIdentity] = deque()


def registry() -> CollectorRegistry:
    """Return what /metrics shows: this process's metrics, or with several workers the sum of theirs."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    shared = CollectorRegistry()
    MultiProcessCollector(shared)  # type: ignore[no-untyped-call]  # the library leaves it bare
    return shared


def observe_answer(answer: Answer, outcome: str, *, crop: bool = False) -> None:
    """Count one answer.

    Args:
        answer: as the detector gave it, whatever the client may see.
        outcome: the answer's, or "abstained" or "refused" by the policy.
        crop: the client had found the face.
    """
    labels = (answer.model.name, answer.model.version)
    _requests.labels(*labels, outcome).inc()
    if not crop:
        faces = len(answer.frames) if isinstance(answer, VideoAnswer) else len(answer.faces)
        _faces_per_input.labels(*labels).observe(faces)
    if answer.score is not None:
        _fake_score.labels(*labels).observe(answer.score)
    if answer.attack_score is not None:
        for kind, value in {**(answer.attack_parts or {}), COMBINED: answer.attack_score}.items():
            _attack_score.labels(*labels, kind).observe(value)
    if answer.quality is not None:
        for kind, value in answer.quality.model_dump().items():
            _input_quality.labels(*labels, kind).observe(value)


def observe_failure() -> None:
    """Count a request that ended in an error of ours, for the version that is served now."""
    if _served:
        _requests.labels(_served[-1].name, _served[-1].version, "error").inc()


def observe_flags(model: ModelIdentity, raised: Iterable[str]) -> None:
    """Count the signs that one input raised."""
    for kind in raised:
        _attack_flags.labels(model.name, model.version, kind).inc()


def publish_model(identity: ModelIdentity, threshold: float, histograms: Mapping[str, Any]) -> None:
    """Show which model is served and the reference histograms that drift is measured against."""
    if _served:
        before = _served[-1]
        _model_info.labels(before.name, before.version, before.digest).set(0)
    _forget_old(identity)
    labels = (identity.name, identity.version)
    _model_info.labels(*labels, identity.digest).set(1)
    _requests.labels(*labels, "error")  # there from the start: a rate needs a first value
    _decision_threshold.labels(*labels).set(threshold)
    for name, histogram in histograms.items():
        total = sum(histogram["counts"])
        for edge, count in zip(histogram["le"], histogram["counts"], strict=True):
            le = "+Inf" if edge is None else floatToGoString(edge)  # type: ignore[no-untyped-call]
            _reference_bucket_ratio.labels(*labels, name, le).set(count / total if total else 0.0)


def _forget_old(identity: ModelIdentity) -> None:
    """Keep the series of this version and the one before: reloads must not add up over months."""
    while identity in _served:
        _served.remove(identity)
    _served.append(identity)
    if len(_served) > _KEPT_VERSIONS and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        old = _served.popleft()
        for metric in _BY_VERSION:
            metric.remove_by_labels({"model": old.name, "version": old.version})
