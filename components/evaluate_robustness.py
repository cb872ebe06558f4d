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
    surrogate: Optional[dsl.Input[dsl.Model]] = None,  # noqa: UP045  # KFP reads it
    suite: str = "quick",
    frames_per_video: int = 4,
    seed: int = 0,
    cache: Optional[str] = None,  # noqa: UP045  # KFP reads this annotation
) -> None:
    """Evaluate a detector on the test split of each store, clean, degraded and attacked.

    Args:
        model: the detector's folder.
        store: the crop store that it was trained on: its test split is evaluated on, and learned attacks are
            fitted on its train split.
        name: what this detector is called in the evidence.
        evidence: evidence.json, samples.parquet, and the cache that a broken-off run goes on from.
        cross_store: a crop store of another data set.
        surrogate: another detector, for transferred attacks; read only if the suite has some.
        suite: which scenarios.
        frames_per_video: at most this many crops of each video.
        seed: of the attacks' random starts.
        cache: a folder in which unchanged work is found again.
    """
    from pathlib import Path
    from typing import Any

    from components.progress import counter, say
    from components.reuse import code_digest, folder_digest, reuse
    from dfcore.data import CropStore
    from dfcore.evaluation import check_unseen, evaluate, get_suite, read_corpus
    from dfcore.models import load_detector

    step = f"evaluate {name}"
    scenarios = get_suite(suite)
    stores = [CropStore.open(Path(item.path)) for item in (store, cross_store) if item]
    corpora = {
        str(one.index["dataset"][0].as_py()): read_corpus(one, max_frames_per_video=frames_per_video)
        for one in stores
    }
    say(step, ", ".join(f"{corpus}: {len(part.crops)} crops" for corpus, part in corpora.items()))
    detector = load_detector(model.path)
    check_unseen(detector, corpora)
    learned = any(scenario.needs_training for scenario in scenarios)
    moved = any(scenario.needs_surrogates for scenario in scenarios)
    other = Path(surrogate.path) if surrogate and moved else None

    def work(out: Path) -> None:
        training = stores[0].select(split="train", max_frames_per_video=1) if learned else None
        evaluate(
            detector, corpora, suite=suite, name=name, out=out, seed=seed, training=training,
            surrogates=[load_detector(other)] if other else (),
            cache=out / "cache", progress=counter(step, "attack steps"), device="auto",
        )  # fmt: skip

    code = ("evaluation", "explain", "attacks", "models", "data", "preprocessing", "shapes", "config")
    inputs: dict[str, Any] = {"model": folder_digest(Path(model.path)), "stores": [s.digest for s in stores]}
    inputs |= {"suite": suite, "frames": frames_per_video, "seed": seed, "name": name}
    inputs |= {"other": folder_digest(other) if other else None, "code": code_digest(code)}
    kept = Path(evidence.path)
    reused = reuse("evaluate", inputs, cache=cache, out=kept, work=work, resumable=True)
    say(step, "reused: model, crops and code are unchanged" if reused else "done")
