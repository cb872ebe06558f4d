"""The main job: prepare, train a baseline and a robust detector, attack both, release what passes."""

from typing import NamedTuple, Optional

from kfp import dsl

import components

__all__ = ["prepare_data", "train_and_release"]

# A shard whose machine was lost starts again alone, and goes on from its last whole part if there is a cache.
_RETRIES = 2


class Outputs(NamedTuple):
    """What a run leaves: artifacts, and the published address ("" if nothing was published)."""

    store: dsl.Dataset
    cross_store: dsl.Dataset
    baseline: dsl.Model
    robust: dsl.Model
    baseline_evidence: dsl.Artifact
    robust_evidence: dsl.Artifact
    baseline_decision: dsl.Artifact
    robust_decision: dsl.Artifact
    report: dsl.HTML
    uri: str
    version: str


@dsl.pipeline(name="prepare-data", description="Find the faces of a data set on several machines.")  # type: ignore[untyped-decorator]  # KFP ships no types
def prepare_data(
    root: str,
    layout: str,
    settings: dict,  # type: ignore[type-arg]  # KFP knows no typed dict
    num_shards: int,
    cache: Optional[str] = None,  # noqa: UP045  # KFP reads this annotation
) -> dsl.Dataset:
    """Scan once, prepare each shard on its own, join.

    Args:
        root: the data set's folder.
        layout: its layout.
        settings: keys of `PreprocessingConfig`.
        num_shards: how many machines share the work.
        cache: a folder in which unchanged work is found again.

    Returns:
        The crop store.
    """
    scanned = components.scan_data(
        root=root, layout=layout, num_shards=num_shards, cache=cache
    ).set_display_name("scan")  # fmt: skip
    with dsl.ParallelFor(scanned.outputs["Output"], name="shards") as shard:
        prepared = components.prepare_faces(
            root=root, manifest=scanned.outputs["manifest"], settings=settings, shard=shard, cache=cache
        ).set_display_name("prepare faces").set_retry(num_retries=_RETRIES)  # fmt: skip
    return (
        components.join_stores(shares=dsl.Collected(prepared.outputs["share"]))
        .set_display_name("join")
        .outputs["store"]
    )


@dsl.pipeline(name="train-and-release", description="Train, attack, prove and release a detector.")  # type: ignore[untyped-decorator]  # KFP ships no types
def train_and_release(  # noqa: PLR0913  # a pipeline's parameters are its signature
    data_root: str,
    cross_root: str,
    registry: str,
    model_name: str = "deepfake",
    channel: str = "production",
    data_layout: str = "ffpp",
    cross_layout: str = "celebdf",
    preprocessing: dict = {},  # type: ignore[type-arg]  # noqa: B006  # KFP reads the default
    num_shards: int = 1,
    baseline_recipe: str = "baseline_efficientnet_b0",
    robust_recipe: str = "pgd_at_efficientnet_b0",
    baseline_overrides: list = [],  # type: ignore[type-arg]  # noqa: B006  # KFP reads the default
    robust_overrides: list = [],  # type: ignore[type-arg]  # noqa: B006  # KFP reads the default
    policy: str = "standard",
    suite: str = "standard",
    frames_per_video: int = 4,
    seed: int = 0,
    serving_image: str = "ghcr.io/rampart/rampart-python:0.1.0",
    rollout: dict = {},  # type: ignore[type-arg]  # noqa: B006  # KFP reads the default
    checkpoints: str = "",
    train_job: dict = {},  # type: ignore[type-arg]  # noqa: B006  # KFP reads the default
    cache: Optional[str] = None,  # noqa: UP045  # KFP reads this annotation
) -> Outputs:
    """Wire the steps.

    Args:
        data_root: the data set to train on.
        cross_root: another data set, only tested on.
        registry: address of the object store that holds the registry.
        model_name: the model's name in the registry.
        channel: the channel that a promoted version goes to.
        data_layout: layout of `data_root`.
        cross_layout: layout of `cross_root`.
        preprocessing: keys of `PreprocessingConfig`.
        num_shards: how many machines share the preparation of a data set.
        baseline_recipe: a name in `dfcore.recipes`.
        robust_recipe: a name in `dfcore.recipes`.
        baseline_overrides: `key=value` settings on top of the recipe.
        robust_overrides: `key=value` settings on top of the recipe.
        policy: the gate's policy, a name or a YAML file.
        suite: the scenarios of the evaluation; the policy may require some of them.
        frames_per_video: crops of each test video that are attacked.
        seed: of the attacks' random starts.
        serving_image: the predictor's image in the InferenceService, where `rollout` names none.
        rollout: keys of `RolloutSettings`; empty writes the InferenceService and applies nothing.
        checkpoints: an object store from which the training of a lost pod is gone on with, or "".
        train_job: keys of `TrainJobSettings`, to train on several machines; empty trains in one pod.
        cache: a folder in which unchanged work is found again.
    """
    store = prepare_data(
        root=data_root, layout=data_layout, settings=preprocessing, num_shards=num_shards, cache=cache
    ).set_display_name("prepare data").output  # fmt: skip
    cross = prepare_data(
        root=cross_root, layout=cross_layout, settings=preprocessing, num_shards=num_shards, cache=cache
    ).set_display_name("prepare data (cross)").output  # fmt: skip
    baseline = components.train_detector(
        store=store, name="baseline", recipe=baseline_recipe, overrides=baseline_overrides, cache=cache,
        checkpoints=checkpoints, train_job=train_job,
    ).set_display_name("train baseline").outputs["model"]  # fmt: skip
    robust = components.train_detector(
        store=store, name="robust", recipe=robust_recipe, overrides=robust_overrides, initial=baseline,
        cache=cache, checkpoints=checkpoints, train_job=train_job,
    ).set_display_name("train robust").outputs["model"]  # fmt: skip
    evidence = {}
    # Each is the other's surrogate: suites with transferred attacks make them there.
    for name, model, other in (("baseline", baseline, robust), ("robust", robust, baseline)):
        evidence[name] = components.evaluate_robustness(
            model=model, store=store, cross_store=cross, surrogate=other, name=name, suite=suite,
            frames_per_video=frames_per_video, seed=seed, cache=cache,
        ).set_display_name(f"evaluate {name}").outputs["evidence"]  # fmt: skip

    # The baseline is a reference: it faces the same gate, but is never a candidate for release.
    decisions = {}
    for name in ("baseline", "robust"):
        decisions[name] = components.check_release_gate(
            evidence=evidence[name], baseline=evidence["baseline"], name=name, policy=policy,
            registry=registry, model_name=model_name, channel=channel,
        ).set_display_name(f"gate {name}")  # fmt: skip
    baseline_decision, robust_decision = (task.outputs["decision"] for task in decisions.values())
    report = components.write_report(
        store=store, baseline=baseline, baseline_evidence=evidence["baseline"],
        baseline_decision=baseline_decision, robust=robust, robust_evidence=evidence["robust"],
        robust_decision=robust_decision,
    ).outputs["report"]  # fmt: skip
    with dsl.If(decisions["baseline"].outputs["promote"] == False, name="baseline-stopped"):  # noqa: E712  # a condition
        components.reject_model(decision=baseline_decision, name="baseline")
    with dsl.If(decisions["robust"].outputs["promote"] == True, name="promote"):  # noqa: E712  # a condition
        published = components.publish_bundle(
            model=robust, store=store, evidence=evidence["robust"], decision=robust_decision, report=report,
            registry=registry, name=model_name, channel=channel,
        )  # fmt: skip
        components.deploy(
            version=published.outputs["version"], registry=registry, name=model_name, channel=channel,
            image=serving_image, rollout=rollout,
        )  # fmt: skip
    with dsl.Else(name="reject"):
        rejected = components.reject_model(decision=robust_decision, name="robust")
    return Outputs(
        store=store, cross_store=cross, baseline=baseline, robust=robust,
        baseline_evidence=evidence["baseline"], robust_evidence=evidence["robust"],
        baseline_decision=baseline_decision, robust_decision=robust_decision, report=report,
        uri=dsl.OneOf(published.outputs["uri"], rejected.outputs["Output"]),
        version=dsl.OneOf(published.outputs["version"], rejected.outputs["Output"]),
    )  # fmt: skip
