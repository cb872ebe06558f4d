"""What the server does beside answering: notice searches, apply the policy, count, keep the payload log."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from dfcore.errors import ConfigError, WorkFailed
from dfcore.monitoring import Fingerprints, PayloadLog, Record, RedisStore
from dfcore.monitoring.policy import Action
from dfcore.monitoring.scorer import COMBINED
from serving.answers import Answer
from serving.metrics import fingerprint_failures, observe_answer, observe_flags, payload_rows_dropped
from serving.predictor import Examined
from serving.rejection import RefusedInput
from serving.settings import MonitoringSettings, ServerSettings

__all__ = ["Monitor", "Verdict"]

logger = logging.getLogger(__name__)

_QUERIES = "queries"
_BLIND_SECONDS = 10.0  # after a failed store of fingerprints: not every request must wait for it
_SEEING_ROLES = ("all", "transformer", "explainer")


class Verdict(NamedTuple):
    """Which signs an input raised, and what the policy does about them."""

    raised: tuple[str, ...]
    action: Action


class Monitor:
    """Watches the answers of one process; it lives longer than a loaded version. Called from several threads.

    Fingerprints are taken where the client is known: not by a predictor, whose client is the transformer.

    Args:
        settings: `monitoring` and the role.

    Raises:
        ConfigError: the salt can't be read, or an address does not fit.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._policy = settings.monitoring.policy
        self._fingerprints = (
            _open_fingerprints(settings.monitoring) if settings.role in _SEEING_ROLES else None
        )
        self._blind_until = 0.0
        payloads = settings.monitoring.payloads
        self._embeddings = payloads is not None and payloads.embeddings
        self._log: PayloadLog | None = None
        if payloads is not None:
            self._log = PayloadLog(payloads.uri, rows=payloads.rows, seconds=payloads.seconds)

    def judge(self, examined: Examined, identity: str) -> Verdict:
        """Compare an input with this identity's earlier ones, and apply the policy to all that it raised."""
        answer = examined.answer
        raised = answer.raised
        if self._is_search(examined, identity):
            raised = (*raised, _QUERIES)
        observe_flags(answer.model, raised)
        return Verdict(raised, self._policy.decide(raised))

    def answer(self, found: Sequence[Examined], identity: str, weights: str) -> list[Answer]:
        """Judge, count and log what was examined for one request.

        Args:
            found: one for each instance.
            identity: who asked.
            weights: SHA-256 of the detector's weights.

        Returns:
            The answers as the client may see them.

        Raises:
            RefusedInput: the policy refuses one of them; all are counted and logged before.
        """
        request = uuid.uuid4().hex
        answers, refused = [], []
        for index, examined in enumerate(found):
            verdict = self.judge(examined, identity)
            outcome: str = examined.answer.outcome
            if verdict.action == "refuse":
                outcome = "refused"
                refused.append(index)
            elif verdict.action == "abstain" and outcome == "ok":
                outcome = "abstained"
            observe_answer(examined.answer, outcome, crop=examined.kind == "crop")
            self._keep(examined, verdict, f"{request}-{index}", weights)
            answers.append(_shown(examined.answer, verdict))
        if refused:
            raise RefusedInput(
                f"expected no signs of an attack in instances {refused}, got some; not answered"
            )
        return answers

    def close(self) -> None:
        """Write what is left of the payload log."""
        if self._log is not None:
            try:
                self._log.close()
            except WorkFailed as error:
                logger.error("the last rows of the payload log are lost: %s", error)

    def _is_search(self, examined: Examined, identity: str) -> bool:
        if self._fingerprints is None or time.monotonic() < self._blind_until:
            return False
        try:
            # all of them: a search must leave its trace whatever stands beside it
            alarms = [self._fingerprints.observe(crop, identity).alarm for crop in examined.queries]
        except WorkFailed as error:
            self._blind_until = time.monotonic() + _BLIND_SECONDS
            fingerprint_failures.inc()
            logger.warning("answering without query fingerprints for %g s: %s", _BLIND_SECONDS, error)
            return False
        return any(alarms)

    def _keep(self, examined: Examined, verdict: Verdict, request: str, weights: str) -> None:
        answer = examined.answer
        if self._log is None or answer.score is None:
            return
        attack = dict(answer.attack_parts or {})
        if answer.attack_score is not None:
            attack[COMBINED] = answer.attack_score
        record = Record(
            time=time.time(),
            request=request,
            model=answer.model.name,
            version=answer.model.version,
            weights=weights,
            score=answer.score,
            attack=attack,
            flags=verdict.raised,
            quality=answer.quality.model_dump() if answer.quality else {},
            slices={"kind": examined.kind},
            embedding=examined.embedding if self._embeddings and examined.embedding.size else None,
        )
        self._log.append(record)
        payload_rows_dropped.set(self._log.dropped)


def _shown(answer: Answer, verdict: Verdict) -> Answer:
    changes = {"raised": verdict.raised, "flagged": verdict.action != "log"}
    hidden = verdict.action == "abstain" and answer.outcome == "ok"
    return (answer.withheld() if hidden else answer).model_copy(update=changes)


def _open_fingerprints(settings: MonitoringSettings) -> Fingerprints | None:
    config = settings.fingerprints
    if config is None:
        return None
    salt = None
    if settings.salt_file is not None:
        try:
            salt = settings.salt_file.read_bytes().strip()
        except OSError as error:
            raise ConfigError(
                f"expected the fingerprints' salt at {settings.salt_file}, got: {error.strerror}"
            ) from error
    store = RedisStore(settings.redis_url, config.expiry) if settings.redis_url else None
    return Fingerprints(config, salt, store)
