"""A rollout: candidate beside the stable version, more traffic step by step, then promoted or rolled back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from dfcore.errors import ConfigError, ConflictError, RampartError, WorkFailed
from rollout.analysis import Check, Prometheus, Versions, judge
from rollout.cluster import INFERENCE_SERVICE, Cluster
from rollout.lock import Lock, LostLock, State, read_state, request_abort
from rollout.manifests import Release, service_name, version_of
from rollout.settings import RolloutSettings
from rollout.traffic import TrafficControl, choose_traffic

__all__ = ["Clock", "abort", "roll_out"]

logger = logging.getLogger(__name__)

_LEASE_SECONDS = 60
_POLL_SECONDS = 1.0


class Clock(NamedTuple):
    """How a rollout tells the time and waits."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class _Stopped(RampartError):
    """Why the candidate must go."""


_REFUSED = (_Stopped, ConflictError, ConfigError)


def roll_out(
    cluster: Cluster,
    release: Release,
    settings: RolloutSettings,
    *,
    say: Callable[[str], None] = logger.info,
    clock: Clock = Clock(),  # noqa: B008  # immutable
) -> State:
    """Give a version the traffic, if it deserves it.

    Args:
        cluster: with KServe.
        release: the version.
        settings: how.
        say: told each step.
        clock: for tests.

    Returns:
        The end: `phase` is "promoted" or "rolled-back", with the reason.

    Raises:
        ConfigError: the cluster can't do it, or refuses an object; nothing was changed.
        ConflictError: another rollout is under way, or somebody else owns a field; nothing was changed.
        WorkFailed: the cluster broke off; the Lease tells where, and rolling out again goes on from there.
    """
    return _Rollout(cluster, release, settings, say, clock).run()


def abort(
    cluster: Cluster, release: Release, settings: RolloutSettings, *, say: Callable[[str], None] = logger.info
) -> State:
    """End a rollout that is under way: its holder rolls back; if that is gone, this process does.

    Args:
        cluster: with KServe.
        release: any version of the model.
        settings: of the rollout.
        say: told each step.

    Raises:
        DataError: no rollout is under way.
    """
    state = request_abort(cluster, service_name(release.name, settings.service))
    if state.alive:
        return state
    left = _Rollout(cluster, release._replace(version=state.version), settings, say, Clock())
    return left.take_back(state)


class _Rollout:
    def __init__(
        self,
        cluster: Cluster,
        release: Release,
        settings: RolloutSettings,
        say: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._cluster, self._candidate, self._settings = cluster, release, settings
        self._say, self._clock = say, clock
        self._service = service_name(release.name, settings.service)
        self._lock = Lock(cluster, self._service, _LEASE_SECONDS)
        self._traffic: TrafficControl = choose_traffic(cluster, settings, self._wait)

    def run(self) -> State:
        """Roll out; see `roll_out`."""
        candidate = self._candidate
        last = read_state(self._cluster, self._service)
        if last is not None and last.running and not last.alive:
            if (last.phase, last.version) == ("promoting", candidate.version) and last.previous is not None:
                self._lock.acquire(last)
                return self._promote(candidate._replace(version=last.previous))
            self._say(f"the rollout of {last.version} was left at {last.weight} %: rolling it back first")
            self.take_back(last)
        self._traffic.check(candidate)
        found = self._cluster.get(INFERENCE_SERVICE, self._service)
        served = version_of(found)
        if served == candidate.version and not (last is not None and last.running):
            self._say(f"{candidate.version} is served already")
            return State(
                version=candidate.version, previous=served, phase="promoted", weight=100, reason="unchanged"
            )
        self._lock.acquire(State(version=candidate.version, previous=served))
        if served is None:
            return self._install(new=found is None)
        return self._canary(candidate._replace(version=served))

    def take_back(self, state: State) -> State:
        """Roll back what a dead holder left."""
        self._lock.acquire(state.model_copy(update={"phase": "rolling-back"}))
        if state.previous is None:
            self._cluster.delete(INFERENCE_SERVICE, self._service)
            self._lock.update(phase="rolled-back", weight=0, reason="aborted")
            return self._lock.state
        return self._roll_back(self._candidate._replace(version=state.previous), "aborted")

    def _install(self, *, new: bool) -> State:
        self._say(f"no version is served yet: {self._candidate.version} gets all of the traffic when ready")
        try:
            self._traffic.install(self._candidate)
        except LostLock:
            raise
        except _REFUSED as error:
            if new:
                self._cluster.delete(INFERENCE_SERVICE, self._service)
            self._lock.update(phase="rolled-back", reason=str(error))
        else:
            self._lock.update(phase="promoted", weight=100, reason="the first version")
        return self._lock.state

    def _canary(self, stable: Release) -> State:
        candidate, settings = self._candidate, self._settings
        try:
            self._say(f"{candidate.version} beside {stable.version}, without traffic until it is ready")
            self._traffic.start(stable, candidate)
            for weight in settings.steps:
                self._traffic.shift(stable, candidate, weight)
                self._tell(phase="canary", weight=weight)
                self._say(f"{weight} % to {candidate.version}, watched for {settings.hold_seconds:g} s")
                self._watch(stable)
            self._tell(phase="promoting")
        except LostLock:
            raise
        except _REFUSED as error:
            return self._roll_back(stable, str(error))
        return self._promote(stable)

    def _promote(self, stable: Release) -> State:
        try:
            self._traffic.promote(self._candidate)
        except LostLock:
            raise
        except _REFUSED as error:
            return self._roll_back(stable, str(error))
        self._lock.update(phase="promoted", weight=100, reason="every look at it passed")
        self._say(f"{self._candidate.version} is served")
        return self._lock.state

    def _roll_back(self, stable: Release, reason: str) -> State:
        self._say(f"rolling back to {stable.version}: {reason}")
        self._lock.update(phase="rolling-back", reason=reason)
        try:
            self._traffic.roll_back(stable)
        except _Stopped as error:
            raise WorkFailed(
                f"expected {stable.version} to be ready again, got: {error}; look at its pods, then roll out "
                "again"
            ) from error
        self._lock.update(phase="rolled-back", weight=0)
        return self._lock.state

    def _watch(self, stable: Release) -> None:
        """Look at the candidate until its time at this weight is over."""
        analysis = self._settings.analysis
        prometheus = Prometheus(analysis)
        versions = Versions(
            self._settings.namespace, stable.name, stable.version, self._candidate.version
        )  # fmt: skip
        began = self._clock.now()
        while True:
            self._pause(analysis.interval_seconds)
            elapsed = self._clock.now() - began
            checks = judge(prometheus, analysis, versions, elapsed)
            self._tell(checks=checks)
            over = elapsed >= self._settings.hold_seconds
            if failed := [check for check in checks if not check.passed and (over or not check.pending)]:
                raise _Stopped("; ".join(_describe(check) for check in failed))
            if over:
                return

    def _pause(self, seconds: float) -> None:
        """Sleep, and renew the Lease meanwhile."""
        until = self._clock.now() + seconds
        while (left := until - self._clock.now()) > 0:
            self._clock.sleep(min(left, _LEASE_SECONDS / 4))
            self._tell()

    def _wait(self, missing: Callable[[], str | None]) -> None:
        until = self._clock.now() + self._settings.ready_seconds
        while (what := missing()) is not None:
            if self._clock.now() >= until:
                raise _Stopped(f"not ready after {self._settings.ready_seconds:g} s: {what}")
            self._clock.sleep(_POLL_SECONDS)
            if self._lock.state.phase != "rolling-back":
                self._tell()
            else:
                self._lock.update()

    def _tell(self, **changes: Any) -> None:
        if self._lock.update(**changes):
            raise _Stopped("aborted")


def _describe(check: Check) -> str:
    return f"{check.name}: {check.detail}"
