"""One rollout at a time: a Lease that its holder renews, with the rollout's state as an annotation."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from dfcore.config import Config
from dfcore.errors import ConfigError, ConflictError, DataError
from rollout.analysis import Check
from rollout.cluster import LEASE, Cluster

__all__ = ["Lock", "LostLock", "Phase", "State", "read_state", "request_abort"]

_STATE = "rampart.io/rollout"
_ABORT = "rampart.io/abort"
_TRIES = 10
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"

Phase = Literal["preparing", "canary", "promoting", "promoted", "rolling-back", "rolled-back"]
_RUNNING: tuple[Phase, ...] = ("preparing", "canary", "promoting", "rolling-back")


class LostLock(ConflictError):
    """Somebody else took the rollout over."""


class State(Config):
    """Where a rollout stands.

    Attributes:
        version: the candidate.
        previous: what was served before; None if nothing was.
        weight: the candidate's share of the traffic in percent.
        reason: why it ended as it did.
        checks: the last look at it.
        holder: who rolls out; updated: when it last said so.
        alive: whether that is recent enough; a rollout that is not may be taken up or aborted by anybody.
    """

    version: str
    previous: str | None = None
    phase: Phase = "preparing"
    weight: int = 0
    reason: str = ""
    checks: tuple[Check, ...] = ()
    holder: str = ""
    started: str = ""
    updated: str = ""
    alive: bool = False

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.phase in _RUNNING


class Lock:
    """The Lease of one service, held by this process."""

    def __init__(
        self,
        cluster: Cluster,
        service: str,
        seconds: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Name the Lease; nothing is held yet.

        Args:
            cluster: where it is.
            service: the InferenceService.
            seconds: after which a silent holder counts as gone.
            now: the clock.
        """
        self._cluster, self._service, self._seconds, self._now = cluster, service, seconds, now
        self._holder = uuid.uuid4().hex[:12]
        self.state = State(version="")

    def acquire(self, state: State) -> None:
        """Take the Lease, from a dead holder too.

        Raises:
            ConflictError: another rollout is under way.
        """
        found = self._cluster.get(LEASE, _name(self._service))
        before = None if found is None else _state_of(found, self._now())
        if before is not None and before.running and before.alive:
            raise ConflictError(
                f"expected no rollout of {self._service!r} under way, got {before.version} at "
                f"{before.weight} % ({before.phase}); wait for it, or `rampart rollout abort`"
            )
        now = self._now().strftime(_TIME)
        self.state = state.model_copy(update={"started": now, "updated": now, "holder": self._holder})
        document = self._document(found)
        if found is None:
            self._cluster.create(LEASE, document)
        else:
            self._cluster.replace(LEASE, document)

    def update(self, **changes: Any) -> bool:
        """Renew the Lease with a changed state; whether somebody asked to abort.

        Raises:
            LostLock: somebody else holds it now.
        """
        now = self._now().strftime(_TIME)
        self.state = self.state.model_copy(update={**changes, "updated": now})

        def change(found: dict[str, Any]) -> dict[str, Any]:
            if found["spec"].get("holderIdentity") != self._holder:
                raise LostLock(
                    f"expected to hold the rollout of {self._service!r}, got another holder; it goes on there"
                )
            return self._document(found, keep_abort=self.state.running)

        found = _replace(self._cluster, self._service, change)
        return bool(found["metadata"].get("annotations", {}).get(_ABORT))

    def _document(self, found: dict[str, Any] | None, *, keep_abort: bool = False) -> dict[str, Any]:
        annotations = {_STATE: self.state.model_dump_json(exclude={"alive"})}
        metadata: dict[str, Any] = {"name": _name(self._service), "namespace": self._cluster.namespace}
        if found is not None:
            metadata["resourceVersion"] = found["metadata"]["resourceVersion"]
            if keep_abort and (asked := found["metadata"].get("annotations", {}).get(_ABORT)):
                annotations[_ABORT] = asked
        metadata["annotations"] = annotations
        return {
            "apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata,
            "spec": {
                "holderIdentity": self._holder, "leaseDurationSeconds": self._seconds,
                "acquireTime": self.state.started, "renewTime": self.state.updated,
            },
        }  # fmt: skip


def read_state(cluster: Cluster, service: str) -> State | None:
    """Return the last rollout of a service, or None."""
    found = cluster.get(LEASE, _name(service))
    return None if found is None else _state_of(found, datetime.now(UTC))


def request_abort(cluster: Cluster, service: str) -> State:
    """Ask the holder of a running rollout to roll back.

    Returns:
        Its state; if it is not `alive`, nobody listens.

    Raises:
        DataError: no rollout is under way.
    """
    state = read_state(cluster, service)
    if state is None or not state.running:
        ended = "none" if state is None else f"{state.version}, which is {state.phase}"
        raise DataError(f"expected a rollout of {service!r} under way, got {ended}; nothing to abort")

    def change(found: dict[str, Any]) -> dict[str, Any]:
        found["metadata"].setdefault("annotations", {})[_ABORT] = "true"
        return found

    _replace(cluster, service, change)
    return state


def _replace(
    cluster: Cluster, service: str, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Change the Lease as it is now; who renews it and who aborts may meet."""
    for _ in range(_TRIES):
        found = cluster.get(LEASE, _name(service))
        if found is None:
            raise LostLock(
                f"expected the Lease of {service!r}, found none: somebody deleted it; roll out again"
            )
        document = change(found)
        try:
            return cluster.replace(LEASE, document)
        except ConflictError:
            continue
    raise ConflictError(f"expected to change the Lease of {service!r} in {_TRIES} tries; try again")


def _name(service: str) -> str:
    return f"{service}-rollout"


def _state_of(lease: dict[str, Any], now: datetime) -> State:
    text = lease["metadata"].get("annotations", {}).get(_STATE)
    if text is None:
        raise ConfigError(
            f"expected a rollout's Lease, got {lease['metadata']['name']!r} without {_STATE}; delete it"
        )
    spec = lease["spec"]
    renewed = datetime.strptime(spec["renewTime"], _TIME).replace(tzinfo=UTC)
    alive = now - renewed < timedelta(seconds=spec["leaseDurationSeconds"])
    return State.parse(json.loads(text), source="rollout's Lease").model_copy(update={"alive": alive})
