"""For each alert: the metrics under which it must fire, and those under which it must stay silent.

Every case is the healthy system with a few series changed. Values are written as promtool writes them: one
sample a minute, "0+60x80" grows by 60.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tests.charts.tools import NAMESPACE

MINUTES = 80
DAY = 86400
SCORES = (*(f"{step / 20:.2f}".rstrip("0") for step in range(1, 20)), "1.0", "+Inf")
Series = Mapping[str, str | None]


class Case(NamedTuple):
    """`fires` holds (alert, signal) of everything that must fire, and nothing else may; empty: silence."""

    name: str
    changes: Series
    fires: frozenset[tuple[str, str]]


def series(name: str, **labels: str) -> str:
    """Return a selector."""
    pairs = {"namespace": NAMESPACE, **labels}
    inside = ",".join(f'{key}="{value}"' for key, value in sorted(pairs.items()))
    return f"{name}{{{inside}}}"


def steady(value: float) -> str:
    """Return a value that does not change."""
    return f"{value:g}x{MINUTES}"


def growing(step: float) -> str:
    """Return a counter that grows by so much a minute."""
    return f"0+{step:g}x{MINUTES}"


def pod(
    instance: str, version: str, *, per_minute: float = 60, seconds: str = "0.1"
) -> dict[str, str | None]:
    """Return the metrics of one server."""
    model = {"instance": instance, "model": "faces", "version": version}
    found: dict[str, str | None] = {
        series("rampart_model_info", **model, digest="sha256:1"): steady(1),
        series("rampart_requests_total", **model, outcome="ok"): growing(per_minute),
        series("rampart_fake_score_sum", **model): growing(per_minute / 2),
        series("rampart_fake_score_count", **model): growing(per_minute),
        series("rampart_attack_flags_total", **model, kind="combined"): growing(per_minute / 100),
        series("rampart_input_rejected_total", instance=instance, reason="media"): growing(per_minute / 60),
        series("rampart_input_rejected_total", instance=instance, reason="overload"): steady(0),
        series("rampart_reloads_total", instance=instance, outcome="replaced"): steady(1),
    }
    found |= scores(instance, version, [per_minute / 20] * 20 + [0])
    for le in ("0.05", "0.1", "0.2", "0.4", "+Inf"):
        inside = le == "+Inf" or float(le) >= float(seconds)
        name = series("rampart_request_seconds_bucket", instance=instance, stage="score", le=le)
        found[name] = growing(per_minute if inside else 0)
    for le in SCORES:
        share = 0.0 if le == "+Inf" else 0.05
        found[series("rampart_reference_bucket_ratio", **model, histogram="fake_score", le=le)] = steady(
            share
        )
    return found


def scores(instance: str, version: str, per_bucket: list[float]) -> dict[str, str | None]:
    """Return the buckets of the score, from how many fall into each a minute."""
    found: dict[str, str | None] = {}
    below = 0.0
    for le, count in zip(SCORES, per_bucket, strict=True):
        below += count
        labels = {"instance": instance, "model": "faces", "version": version, "le": le}
        found[series("rampart_fake_score_bucket", **labels)] = growing(below)
    return found


def figure(scenario: str, value: float, *, family: str = "rampart_robustness_auc") -> dict[str, str | None]:
    """Return an AUC of what is served."""
    epsilon = "none" if scenario == "clean" else "2/255"
    name = series(family, **SERVED, scenario=scenario, corpus="ffpp", epsilon=epsilon)
    return {name: steady(value)}


SERVED = {"instance": "exporter", "model": "faces", "version": "v1", "channel": "production"}
ATTACK, RELEASED = "pgd20_2_255", "rampart_robustness_released_auc"
UP = series("rampart_registry_up", instance="exporter")
READABLE = series("rampart_channel_readable", instance="exporter", model="faces", channel="production")
MADE = series("rampart_evidence_timestamp_seconds", **SERVED, source="release")
AUDITED = series("rampart_evidence_timestamp_seconds", **SERVED, source="audit")
VALID = series("rampart_evidence_valid", **SERVED, source="release")
HEALTHY: dict[str, str | None] = {
    **pod("a", "v1"),
    **pod("b", "v1"),
    UP: steady(1),
    READABLE: steady(1),
    series("rampart_channel_info", **SERVED): steady(1),
    **figure("clean", 0.95),
    **figure("clean", 0.95, family=RELEASED),
    **figure(ATTACK, 0.8),
    **figure(ATTACK, 0.8, family=RELEASED),
    MADE: steady(-DAY),
    VALID: steady(1),
    series("rampart_gate_decision", **SERVED, policy="standard", source="release"): steady(1),
}


def flags(kind: str, per_minute: float) -> dict[str, str | None]:
    """Return raised signs at one server."""
    labels = {"instance": "a", "model": "faces", "version": "v1", "kind": kind}
    return {series("rampart_attack_flags_total", **labels): growing(per_minute)}


def rejected(reason: str, per_minute: float) -> dict[str, str | None]:
    """Return refusals at both servers."""
    return {
        series("rampart_input_rejected_total", instance=one, reason=reason): growing(per_minute)
        for one in ("a", "b")
    }


def failed(per_minute: float, instance: str = "a", version: str = "v1") -> dict[str, str | None]:
    """Return requests that ended in an error of ours."""
    labels = {"instance": instance, "model": "faces", "version": version, "outcome": "error"}
    return {series("rampart_requests_total", **labels): growing(per_minute)}


def candidate(*changes: Series, per_minute: float = 10) -> dict[str, str | None]:
    """Return a third server with another version, which came half an hour ago."""
    found = pod("c", "v2", per_minute=per_minute)
    for change in changes:
        found |= change
    return {name: values and f"_x40 {values}" for name, values in found.items()}


def decision(value: float) -> dict[str, str | None]:
    """Return what the gate says after an audit."""
    return {series("rampart_gate_decision", **SERVED, policy="strict", source="audit"): steady(value)}


def reload(values: str) -> dict[str, str | None]:
    """Return refused versions."""
    return {series("rampart_reloads_total", instance="a", outcome="refused"): values}


def _fires(name: str, changes: Series, *alerts: str) -> Case:
    pairs = [alert.partition("/") for alert in alerts]
    return Case(name, changes, frozenset((alert, signal) for alert, _, signal in pairs))


def _silent(name: str, changes: Series) -> Case:
    return Case(name, changes, frozenset())


_FEW = {key: None for key in HEALTHY if 'instance="b"' in key} | pod("a", "v1", per_minute=0.6)
_NONE = {key: None for key in HEALTHY if key.startswith("rampart_model_info")}
_MOVED = scores("a", "v1", [60.0, *[0.0] * 20]) | scores("b", "v1", [60.0, *[0.0] * 20])
_SLIGHTLY = [4.0] * 10 + [2.0] * 10 + [0.0]
_C = {"instance": "c", "model": "faces", "version": "v2"}

CASES = (
    _silent("all is well", {}),
    _fires("scores moved", _MOVED, "RampartDrift"),
    _silent("scores moved a little", scores("a", "v1", _SLIGHTLY) | scores("b", "v1", _SLIGHTLY)),
    _silent("too few inputs to judge", {**_FEW, **scores("a", "v1", [0.6, *[0.0] * 20])}),
    _fires("a tenth looks attacked", flags("combined", 24), "RampartAttackCampaign/scores"),
    _silent("a fiftieth looks attacked", flags("combined", 2)),
    _silent("one of ten that came looks attacked", {**_FEW, **flags("combined", 0.06)}),
    _fires("searches", flags("queries", 0.1), "RampartAttackCampaign/queries"),
    _silent("one search", flags("queries", 0.02)),
    _fires("files that can't be decoded", rejected("media", 20), "RampartDecodeFailures"),
    _silent("some files that can't be decoded", rejected("media", 4)),
    _fires("below the floor", {**figure(ATTACK, 0.65), **figure(ATTACK, 0.65, family=RELEASED)},
           "RampartRobustnessBelowFloor/figure"),
    _silent("just above the floor", {**figure(ATTACK, 0.71), **figure(ATTACK, 0.71, family=RELEASED)}),
    _fires("never attacked", dict.fromkeys(figure(ATTACK, 0)), "RampartRobustnessBelowFloor/missing"),
    _fires("weaker than at its release", figure(ATTACK, 0.72), "RampartRobustnessLost"),
    _silent("hardly weaker than at its release", figure(ATTACK, 0.77)),
    _fires("evidence of last season", {MADE: steady(-40 * DAY)}, "RampartEvidenceStale"),
    _silent("evidence of this month", {MADE: steady(-29 * DAY)}),
    _silent("an audit since", {MADE: steady(-40 * DAY), AUDITED: steady(-DAY)}),
    _fires("guards tripped", {VALID: steady(0)}, "RampartEvidenceInvalid"),
    _fires("an audit that fails the gate", decision(0), "RampartGateFailing"),
    _silent("an audit that passes the gate", decision(1)),
    _fires("altered", {READABLE: steady(0)}, "RampartChannelUnreadable"),
    _fires("store away", {UP: steady(0)}, "RampartRegistryUnreachable/store"),
    _silent("store away for a moment", {UP: "1x70 0x9"}),
    _fires("exporter away", {UP: None}, "RampartRegistryUnreachable/exporter"),
    _fires("every tenth request fails", {**failed(10), **failed(10, "b")},
           "RampartErrorBudgetBurn/fast", "RampartErrorBudgetBurn/slow"),
    _fires("every tenth request is one too many", rejected("overload", 10),
           "RampartErrorBudgetBurn/fast", "RampartErrorBudgetBurn/slow"),
    _fires("every twentieth request fails", {**failed(3), **failed(3, "b")}, "RampartErrorBudgetBurn/slow"),
    _silent("some requests fail", {**failed(0.6), **failed(0.6, "b")}),
    _silent("clients send what does not fit", rejected("malformed", 30)),
    _fires("the second version refused", reload("1x60 2x20"), "RampartReloadFailed"),
    _fires("the first version refused", reload("_x60 1x20"), "RampartReloadFailed"),
    _silent("a version refused yesterday", reload(steady(1))),
    _fires("no server", _NONE, "RampartNoServer"),
    _silent("a candidate like the stable version", candidate()),
    _fires("a candidate that fails", candidate(failed(1, "c", "v2")), "RampartCandidateWorse/errors"),
    _fires("a slow candidate", candidate(pod("c", "v2", per_minute=10, seconds="0.4")),
           "RampartCandidateWorse/latency"),
    _fires("a candidate with other scores",
           candidate({series("rampart_fake_score_sum", **_C): growing(8)}), "RampartCandidateWorse/scores"),
    _fires("a candidate that sees attacks",
           candidate({series("rampart_attack_flags_total", **_C, kind="combined"): growing(1)}),
           "RampartCandidateWorse/flags", "RampartAttackCampaign/scores"),
    _silent("a bad candidate that hardly anybody asked",
            candidate(pod("c", "v2", per_minute=1, seconds="0.4"), failed(0.3, "c", "v2"),
                      {series("rampart_fake_score_sum", **_C): growing(0.9)}, per_minute=1)),
    _silent("a stable version that is worse than its candidate",
            candidate() | pod("a", "v1", seconds="0.4") | pod("b", "v1", seconds="0.4")),
)  # fmt: skip
"""Each is evaluated after 75 minutes."""
