"""The release gate: a policy, the evidence, and a decision that lists every rule. It fails closed.

`rampart gate --evidence DIR --policy demo --baseline DIR`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from dfcore.config import Config
from dfcore.errors import ConfigError, DataError
from dfcore.release.measured import Interval, Measured, Result, read_measured
from dfcore.release.policy import EACH, Comparison, Floor, GatePolicy, SliceFloor
from dfcore.storage import write_atomic

__all__ = ["Decision", "Rule", "check_gate"]

_CLOCK_SKEW = timedelta(minutes=5)


class Rule(Config):
    """One line of a decision.

    Attributes:
        passed: whether it holds, or does not apply.
        applied: False where there was nothing to compare with.
        value: what was measured; None where it is missing.
        bound: what the policy asks for.
    """

    name: str
    passed: bool
    applied: bool = True
    value: float | None = None
    low: float | None = None
    high: float | None = None
    bound: float | None = None
    detail: str = ""


class Decision(Config):
    """The gate's answer; `promoted` is true only if every rule passed."""

    promoted: bool
    policy: str
    rules: tuple[Rule, ...]
    evidence_digest: str | None = None
    baseline_digest: str | None = None
    current_digest: str | None = None
    created: str

    @property
    def failed(self) -> list[Rule]:
        """The rules that said no."""
        return [rule for rule in self.rules if not rule.passed]

    def save(self, path: Path) -> None:
        """Write the decision as JSON, atomically."""
        write_atomic(path, f"{self.model_dump_json(indent=2)}\n".encode())

    @classmethod
    def load(cls, path: Path) -> Decision:
        """Read a decision.

        Raises:
            ConfigError: there is none, or its verdict contradicts its rules.
        """
        decision = cls.from_yaml(path)
        if decision.promoted and (decision.failed or not decision.rules):
            raise ConfigError(f"{path} says promoted, but its rules do not; run the gate again")
        return decision


def check_gate(
    candidate: Path,
    policy: GatePolicy,
    baseline: Path | None = None,
    current: Path | None = None,
    *,
    now: datetime | None = None,
) -> Decision:
    """Hold evidence against a policy.

    Args:
        candidate: folder with evidence.json and samples.parquet.
        policy: what is asked for.
        baseline: the undefended detector's folder; without it the improvements do not apply
            (unless the policy requires a baseline).
        current: folder of what the channel serves now; without it the regressions do not apply.
        now: the time to measure age at.

    Returns:
        The decision. What is missing, unreadable or not a number is a failed rule, never an exception.
    """
    rules: list[Rule] = []
    ours = _read("evidence", candidate, rules)
    base = _read("baseline evidence", baseline, rules)
    served = _read("current evidence", current, rules)
    if ours is not None:
        moment = now or datetime.now(UTC)
        rules += _trustworthy("evidence", ours, policy, moment)
        rules += _complete(ours, policy)
        rules += [rule for floor in policy.floors for rule in _floor(ours, floor)]
        rules += [rule for floor in policy.worst_slice for rule in _worst_slice(ours, floor)]
        if policy.require_baseline and baseline is None:
            rules.append(
                Rule(name="baseline", passed=False, detail="the policy asks for a baseline, none was given")
            )
        if base is not None:
            rules += _guards("baseline evidence", base, policy)
        rules += _comparisons("improvement", ours, base, baseline, policy.improvements)
        rules += _comparisons("regression", ours, served, current, policy.regressions)
    return Decision(
        promoted=bool(rules) and ours is not None and all(rule.passed for rule in rules),
        policy=policy.name,
        rules=tuple(rules),
        evidence_digest=ours.digest if ours else None,
        baseline_digest=base.digest if base else None,
        current_digest=served.digest if served else None,
        created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
    )


def _read(name: str, path: Path | None, rules: list[Rule]) -> Measured | None:
    if path is None:
        return None
    try:
        return read_measured(path)
    except DataError as error:
        rules.append(Rule(name=name, passed=False, detail=str(error)))
        return None


def _trustworthy(name: str, measured: Measured, policy: GatePolicy, now: datetime) -> Iterator[Rule]:
    yield from _guards(name, measured, policy)
    if policy.max_age_days is None:
        return
    created = measured.created if measured.created.tzinfo else measured.created.replace(tzinfo=UTC)
    age = now - created
    days = age / timedelta(days=1)
    passed = -_CLOCK_SKEW <= age <= timedelta(days=policy.max_age_days)
    detail = f"made {created.isoformat()}; at most {policy.max_age_days:g} days old"
    yield Rule(name=f"{name}: age", passed=passed, value=days, bound=policy.max_age_days, detail=detail)


def _guards(name: str, measured: Measured, policy: GatePolicy) -> Iterator[Rule]:
    if not policy.require_valid_guards:
        return
    broken = [f"{guard.name} ({guard.detail})" for guard in measured.guards if not guard.passed]
    passed = measured.valid and bool(measured.guards) and not broken
    detail = f"{len(measured.guards)} guards passed" if passed else "no guard was run"
    if broken or (measured.guards and not measured.valid):
        detail = f"failed: {', '.join(broken)}" if broken else "the evidence is marked invalid"
    yield Rule(name=f"{name}: guards", passed=passed, detail=detail)


def _complete(measured: Measured, policy: GatePolicy) -> Iterator[Rule]:
    wanted = [
        *policy.required_corpora,
        *(item for item in measured.corpus_names if item not in policy.required_corpora),
    ]
    for scenario in policy.required_scenarios:
        missing = [corpus for corpus in wanted if not _usable(measured, scenario, corpus)]
        detail = (
            f"missing or empty on {', '.join(missing)}" if missing else f"measured on {', '.join(wanted)}"
        )
        yield Rule(name=f"required: {scenario}", passed=bool(wanted) and not missing, detail=detail)


def _usable(measured: Measured, scenario: str, corpus: str) -> bool:
    try:
        return measured.find(scenario, corpus).n > 0
    except DataError:
        return False


def _estimate(result: Result, metric: str) -> Interval:
    """Return a finite estimate whose interval is in order; DataError otherwise."""
    found = result.metrics.get(metric)
    numbers = [found.value, found.low, found.high] if found else [None]
    if found is None or any(number is None or not math.isfinite(number) for number in numbers):
        raise DataError(f"{metric} of {result.scenario} on {result.corpus} is missing or not a number")
    if result.n <= 0:
        raise DataError(f"{result.scenario} on {result.corpus} has no samples")
    return found


def _corpora(measured: Measured, corpus: str) -> list[str]:
    """Return the corpora that a rule is about; never none, since no rule would be a rule that holds."""
    return (measured.corpus_names or [EACH]) if corpus == EACH else [corpus]


def _floor(measured: Measured, floor: Floor) -> Iterator[Rule]:
    for corpus in _corpora(measured, floor.corpus):
        name = f"floor: {floor.metric} of {floor.scenario} on {corpus}"
        yield _bounded(
            name, lambda corpus=corpus: _estimate(measured.find(floor.scenario, corpus), floor.metric),  # type: ignore[misc]  # mypy can't infer a lambda with a default
            floor.at_least, floor.bound,
        )  # fmt: skip


def _worst_slice(measured: Measured, floor: SliceFloor) -> Iterator[Rule]:
    def worst(corpus: str) -> Interval:
        slices = measured.slices(floor.scenario, corpus)
        if not slices:
            raise DataError(f"expected slices of {floor.scenario} on {corpus}, got none")
        return min((_estimate(item, floor.metric) for item in slices), key=lambda found: found.value or 0.0)

    for corpus in _corpora(measured, floor.corpus):
        name = f"worst slice: {floor.metric} of {floor.scenario} on {corpus}"
        yield _bounded(name, partial(worst, corpus), floor.at_least, "value")


def _comparisons(
    kind: str, ours: Measured, other: Measured | None, given: Path | None, wanted: tuple[Comparison, ...]
) -> Iterator[Rule]:
    for item, corpus in ((rule, name) for rule in wanted for name in _corpora(ours, rule.corpus)):
        name = f"{kind}: {item.metric} of {item.scenario} on {corpus}"
        if given is None:
            nothing = "no baseline was given" if kind == "improvement" else "nothing is served yet"
            detail = f"not applicable: {nothing}"
            yield Rule(name=name, passed=True, applied=False, bound=item.at_least, detail=detail)
        elif other is None:
            detail = "what to compare with can't be read"
            yield Rule(name=name, passed=False, bound=item.at_least, detail=detail)
        elif item.if_comparable and (why := ours.obstacle(other, item.scenario, corpus)):
            detail = f"not applicable: {why}"
            yield Rule(name=name, passed=True, applied=False, bound=item.at_least, detail=detail)
        else:
            yield _bounded(name, _difference(ours, other, item, corpus), item.at_least, "low")


def _difference(ours: Measured, other: Measured, item: Comparison, corpus: str) -> Callable[[], Interval]:
    def compute() -> Interval:
        found = ours.difference(other, item.scenario, corpus, item.metric)
        if not all(math.isfinite(number) for number in found):
            raise DataError(f"the difference of {item.metric} is not a number")
        return Interval(value=found.value, low=found.low, high=found.high)

    return compute


def _bounded(name: str, measure: Callable[[], Interval], at_least: float, bound: str) -> Rule:
    """Measure and compare; what can't be measured fails."""
    try:
        found = measure()
    except DataError as error:
        return Rule(name=name, passed=False, bound=at_least, detail=str(error))
    compared = found.low if bound == "low" else found.value
    passed = compared is not None and compared >= at_least
    subject = "lower end of the 95 % interval" if bound == "low" else "measured value"
    detail = f"{subject} {compared:.3f}, asked for at least {at_least:g}"
    return Rule(
        name=name,
        passed=passed,
        value=found.value,
        low=found.low,
        high=found.high,
        bound=at_least,
        detail=detail,
    )
