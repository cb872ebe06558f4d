"""Component: end a run as failed because an audit found a regression."""

from kfp import dsl

from components.images import component


@component
def flag_regression(version: str, audit: str, failed: str, regression: dsl.Output[dsl.Markdown]) -> None:
    """Say which rules do not hold any more, and fail: a failed run is what gets noticed.

    Args:
        version: what was attacked.
        audit: the name of the record.
        failed: the rules, separated by commas.
        regression: the same, as Markdown.

    Raises:
        CheckFailed: always.
    """
    from pathlib import Path

    from components.progress import say
    from components.writing import write_text
    from dfcore.errors import CheckFailed

    rules = failed.split(",")
    lines = [f"# {version} does not hold what it promised", "", f"Audit {audit}.", ""]
    write_text(Path(regression.path), "\n".join([*lines, *(f"- {rule}" for rule in rules), ""]))
    say("audit", f"regression of {version}: {'; '.join(rules)}")
    raise CheckFailed(
        f"expected {version} to hold its policy under audit {audit}, got {len(rules)} broken rules: "
        f"{'; '.join(rules)}; roll the channel back, or train again"
    )
