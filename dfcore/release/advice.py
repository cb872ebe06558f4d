"""What would have to change for a candidate to pass: a decision in plain words."""

from __future__ import annotations

from dfcore.release.gate import Decision, Rule

__all__ = ["advise"]

# what usually moves a figure, by how its scenario begins
_REMEDIES = {
    "clean": "more or more varied training data, or a defence with a smaller budget or weight",
    "jpeg": "compression among the training augmentations (data.augmentation=wide)",
    "h264": "training videos of several compression levels, and compression among the augmentations",
    "resize": "scaling among the training augmentations (data.augmentation=wide)",
    "noise": "noise among the training augmentations (data.augmentation=wide)",
    "blur": "blur among the training augmentations, or training on adversarial blur",
    "flow": "training on adversarial flow",
    "unet": "the dual-attacker game, which trains against such a network",
}
_ATTACKED = "adversarial training with a budget of at least the attack's epsilon, for more epochs"


def advise(decision: Decision) -> list[str]:
    """Say what would have to improve, one sentence or two for each rule that failed, in the rules' order.

    A promoted candidate needs nothing; the list is then empty.
    """
    return [f"{rule.name}. {_advice(rule)}" for rule in decision.failed]


def _advice(rule: Rule) -> str:
    kind, _, subject = rule.name.partition(": ")
    if kind.endswith("evidence") and subject == "guards":
        return f"The figures can't be believed ({rule.detail}). Cure what the guard found and evaluate again."
    if kind == "evidence" and subject == "age":
        return f"The evidence is {rule.value or 0:.1f} days old, {rule.bound:g} are allowed. Evaluate again."
    if kind == "required":
        return f"It is {rule.detail}. Evaluate with a suite that has it, on every corpus."
    if kind == "baseline" and not subject:
        return "Evaluate the undefended detector on the same crops and give its evidence as the baseline."
    if rule.value is None or rule.bound is None:
        return f"It could not be judged: {rule.detail}."
    if kind in ("floor", "worst slice"):
        return _short(rule, subject)
    return _behind(rule, kind)


def _short(rule: Rule, subject: str) -> str:
    assert rule.value is not None
    assert rule.bound is not None
    if rule.value >= rule.bound:
        return (
            f"The figure, {rule.value:.3f}, reaches {rule.bound:g}, but its interval begins at "
            f"{rule.low:.3f}: too few videos to be sure. Evaluate on more videos, or improve it further."
        )
    scenario = subject.split(" of ", 1)[-1].split(" on ", 1)[0]
    return (
        f"It is {rule.value:.3f} and has to rise by {rule.bound - rule.value:.3f} to {rule.bound:g}. "
        f"What helps as a rule: {_REMEDIES.get(scenario.split('_')[0], _ATTACKED)}."
    )


def _behind(rule: Rule, kind: str) -> str:
    """Word a paired comparison whose interval's lower end is below the bound."""
    assert rule.value is not None
    assert rule.bound is not None
    other = "the baseline" if kind == "improvement" else "what is served now"
    side = f"{abs(rule.value):.3f} {'above' if rule.value >= 0 else 'below'} {other}"
    interval = f"the 95 % interval of the difference is {rule.low:.3f} to {rule.high:.3f}"
    if rule.value >= rule.bound:
        return (
            f"It is {side}, but {interval} and has to begin at {rule.bound:g} or higher: chance could "
            "explain it. Evaluate on more videos, or improve it further."
        )
    return (
        f"It is {side}; {interval} and has to begin at {rule.bound:g} or higher. "
        "Improve it, or keep what is there."
    )
