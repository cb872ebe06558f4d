"""Component: make one crop store of the shares that several machines prepared."""

from typing import List  # noqa: UP035  # KFP reads the annotation of a list of artifacts in this form only

from kfp import dsl

from components.images import component


@component
def join_stores(
    shares: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    store: dsl.Output[dsl.Dataset],
) -> None:
    """Join, prove and describe a crop store; its digest does not depend on how many shares there were.

    Args:
        shares: what `prepare_faces` kept for each shard.
        store: the crop store.
    """
    from pathlib import Path

    from components.progress import say
    from dfcore.data import join_stores

    joined = join_stores([Path(share.path) for share in shares], Path(store.path))
    outcomes = joined.outcomes
    store.metadata["digest"] = joined.digest
    store.metadata["outcomes"] = outcomes
    step = f"join {joined.index['dataset'][0].as_py()}"
    told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    say(step, f"done: {len(joined)} faces of {len(shares)} shards; inputs: {told}")
