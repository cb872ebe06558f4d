"""Every Prometheus metric of the server, defined once; KServe's `/metrics` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.utils import floatToGoString

from dfcore.monitoring import SCORE_BUCKETS
from serving.answers import Answer, ModelIdentity, VideoAnswer

__all__ = ["input_rejected", "observe_answer", "publish_model", "request_seconds"]

_MODEL = ("model", "version")
_FACES = (0, 1, 2, 4, 8, 16, 32, 64)
_QUALITY = tuple(float(2**power) for power in range(15))

_requests = Counter("rampart_requests_total", "Answered images and videos.", (*_MODEL, "outcome"))
request_seconds = Histogram("rampart_request_seconds", "Time in one stage of a request.", ("stage",))
_fake_score = Histogram(
    "rampart_fake_score", "P(fake) of the answered inputs.", _MODEL, buckets=SCORE_BUCKETS
)
_attack_score = Histogram(
    "rampart_attack_score", "Signs of tampering.", (*_MODEL, "kind"), buckets=SCORE_BUCKETS
)
input_rejected = Counter("rampart_input_rejected_total", "Requests answered with a 4xx.", ("reason",))
_faces_per_input = Histogram(
    "rampart_faces_per_input", "Faces scored in one image or video.", _MODEL, buckets=_FACES
)
_input_quality = Histogram(
    "rampart_input_quality",
    "Longer side of the face in pixels (face_size); variance of the Laplacian (blur).",
    (*_MODEL, "kind"),
    buckets=_QUALITY,
)
_model_info = Gauge("rampart_model_info", "The model that is served; always 1.", (*_MODEL, "digest"))
_decision_threshold = Gauge("rampart_decision_threshold_ratio", "Score from which an input is fake.", _MODEL)
_reference_bucket_ratio = Gauge(
    "rampart_reference_bucket_ratio",
    "Share of the frozen reference in the one bucket that ends at le (not cumulative).",
    (*_MODEL, "histogram", "le"),
)


def observe_answer(answer: Answer) -> None:
    """Count one answer."""
    labels = (answer.model.name, answer.model.version)
    _requests.labels(*labels, answer.outcome).inc()
    faces = len(answer.frames) if isinstance(answer, VideoAnswer) else len(answer.faces)
    _faces_per_input.labels(*labels).observe(faces)
    if answer.score is not None:
        _fake_score.labels(*labels).observe(answer.score)
    if answer.attack_parts is not None:
        for kind, value in answer.attack_parts.model_dump().items():
            _attack_score.labels(*labels, kind).observe(value)
    if answer.quality is not None:
        for kind, value in answer.quality.model_dump().items():
            _input_quality.labels(*labels, kind).observe(value)


def publish_model(identity: ModelIdentity, threshold: float, reference: Mapping[str, Any] | None) -> None:
    """Show which model is served and the reference that drift is measured against."""
    labels = (identity.name, identity.version)
    _model_info.labels(*labels, identity.digest).set(1)
    _decision_threshold.labels(*labels).set(threshold)
    histograms = reference["histograms"] if reference else {}
    for name, histogram in histograms.items():
        total = sum(histogram["counts"])
        for edge, count in zip(histogram["le"], histogram["counts"], strict=True):
            le = "+Inf" if edge is None else floatToGoString(edge)  # type: ignore[no-untyped-call]
            _reference_bucket_ratio.labels(*labels, name, le).set(count / total if total else 0.0)
