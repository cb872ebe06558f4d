"""Component: say why a detector is not released."""

from kfp import dsl

from components.images import component


@component
def reject_model(
    decision: dsl.Input[dsl.Artifact],
    name: str,
    rejection: dsl.Output[dsl.Markdown],
) -> str:
    """Write the rules that stopped a detector.

    Args:
        decision: the gate's decision.
        name: what the detector is called.
        rejection: the reasons, as Markdown.

    Returns:
        "" -- the address of a release that does not exist.
    """
    from pathlib import Path

    from components.progress import say
    from components.writing import write_text
    from dfcore.release import Decision

    text = (Path(decision.path) / "decision.json").read_text(encoding="utf-8")
    failed = [rule for rule in Decision.model_validate_json(text).rules if not rule.passed]
    lines = [f"# {name} is not released", "", *(f"- **{rule.name}**: {rule.detail}" for rule in failed), ""]
    write_text(Path(rejection.path), "\n".join(lines))
    say(f"reject {name}", "; ".join(rule.name for rule in failed))
    return ""
