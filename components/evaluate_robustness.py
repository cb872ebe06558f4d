"""Component: attack one detector on test splits and write the evidence."""

from typing import Optional

from kfp import dsl

from components.images import component


@component
def evaluate_robustness(  # noqa: PLR0913  # KFP: inputs, outputs and settings in one signature
    model: dsl.Input[dsl.Model],
    store: dsl.Input[dsl.Dataset],
    name: str,
    evidence: dsl.Output[dsl.Artifact],
    cross_store: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045  # KFP reads it
    suite: str = "quick",
    frames_per_video: int = 4,
    seed: int = 0,
    cache: Optional[str] = None,  # noqa: UP045  # KFP reads this annotation
) -> None:
    """Evaluate a detector on the test split of each store, clean, degraded and attacked.

    Args:
        model: the detector's folder.
        store: the crop store that it was trained on (only the test split is read).
        name: what this detector is called in the evidence.
        evidence: evidence.json, samples.parquet.
        cross_store: a crop store of another data set.
        suite: which scenarios.
        frames_per_video: at most this many crops of each video.
        seed: of the attacks' random starts.
        cache: a folder in which unchanged work is found again.
    """
    from pathlib import Path
    from typing import Any

    from components.progress import counter, say
    from components.reuse import code_digest, folder_digest, reuse
    from components.stores import test_crops
    from dfcore.evaluation import evaluate
    from dfcore.models import load_detector

    step = f"evaluate {name}"
    stores = [Path(item.path) for item in (store, cross_store) if item]
    corpora, digests = test_crops(stores, frames_per_video)
    say(step, ", ".join(f"{corpus}: {len(crops)} crops" for corpus, crops in corpora.items()))

    def work(out: Path) -> None:
        evaluate(
            load_detector(model.path), corpora, suite=suite, name=name, out=out, seed=seed,
            progress=counter(step, "attack steps"), device="auto",
        )  # fmt: skip

    code = ("evaluation", "explain", "attacks", "models", "data", "preprocessing", "shapes", "config")
    inputs: dict[str, Any] = {"model": folder_digest(Path(model.path)), "stores": digests, "name": name}
    inputs |= {"suite": suite, "frames": frames_per_video, "seed": seed, "code": code_digest(code)}
    reused = reuse("evaluate", inputs, cache=cache, out=Path(evidence.path), work=work)
    say(step, "reused: model, crops and code are unchanged" if reused else "done")
