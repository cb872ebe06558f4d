"""The recurring job: attack again what a channel serves, and say so when it does not hold any more."""

from typing import NamedTuple, Optional

from kfp import dsl

import components
from pipelines.train_and_release import prepare_data

__all__ = ["audit_robustness"]


class Outputs(NamedTuple):
    """The new evidence, and whether the served version still holds its policy."""

    evidence: dsl.Artifact
    version: str
    audit: str
    regressed: bool


# KFP's local runner resolves a condition only inside a pipeline whose input it is.
@dsl.pipeline(name="judge-audit", description="Fail if a rule does not hold any more.")  # type: ignore[untyped-decorator]  # KFP ships no types
def judge_audit(regressed: bool, version: str, audit: str, failed: str) -> None:
    """Flag a regression.

    Args:
        regressed: whether there is one.
        version: what was attacked.
        audit: the name of the record.
        failed: the rules, separated by commas.
    """
    with dsl.If(regressed == True, name="regression"):  # noqa: E712  # a condition
        components.flag_regression(version=version, audit=audit, failed=failed).set_display_name(
            "flag regression"
        )


@dsl.pipeline(name="audit-robustness", description="Attack what is served, with fresh seeds.")  # type: ignore[untyped-decorator]  # KFP ships no types
def audit_robustness(  # noqa: PLR0913  # a pipeline's parameters are its signature
    data_root: str,
    registry: str,
    model_name: str = "deepfake",
    channel: str = "production",
    data_layout: str = "auto",
    preprocessing: dict = {},  # type: ignore[type-arg]  # noqa: B006  # KFP reads the default
    num_shards: int = 1,
    policy: str = "audit",
    suite: str = "full",
    frames_per_video: int = 4,
    seed: str = "",
    cache: Optional[str] = None,  # noqa: UP045  # KFP reads this annotation
) -> Outputs:
    """Wire the steps.

    Args:
        data_root: the corpus that is attacked.
        registry: address of the object store that holds the registry.
        model_name: the model's name in the registry.
        channel: whose detector is attacked.
        data_layout: layout of `data_root`.
        preprocessing: keys of `PreprocessingConfig`.
        num_shards: how many machines share the preparation of the corpus.
        policy: what must still hold, a name or a YAML file; it may ask for no other corpus and no baseline.
        suite: the scenarios.
        frames_per_video: crops of each test video that are attacked.
        seed: a number for the attacks' random starts; "" takes the day's date.
        cache: a folder in which unchanged work is found again.
    """
    store = prepare_data(
        root=data_root, layout=data_layout, settings=preprocessing, num_shards=num_shards, cache=cache
    ).set_display_name("prepare data").output  # fmt: skip
    audit = components.audit_robustness(
        store=store, registry=registry, name=model_name, channel=channel, policy=policy, suite=suite,
        frames_per_video=frames_per_video, seed=seed,
    ).set_display_name("audit")  # fmt: skip
    judge_audit(
        regressed=audit.outputs["regressed"], version=audit.outputs["version"], audit=audit.outputs["audit"],
        failed=audit.outputs["failed"],
    ).set_display_name("judge")  # fmt: skip
    return Outputs(
        evidence=audit.outputs["evidence"], version=audit.outputs["version"], audit=audit.outputs["audit"],
        regressed=audit.outputs["regressed"],
    )  # fmt: skip
