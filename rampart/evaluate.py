"""rampart evaluate --model URI --data NAME=STORE … --suite quick|standard|full --out DIR.

What is done is kept in DIR/cache: a run that was interrupted goes on, and an equal one does no work.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rampart.output import Json, emit, progress_bar, table

if TYPE_CHECKING:
    from dfcore.data import Crops
    from dfcore.evaluation import Corpus, Evidence

__all__ = ["evaluate", "read_corpora", "training_crops"]

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)")


def evaluate(  # noqa: PLR0913  # each argument is one option
    model: Annotated[str, typer.Option(help="A detector's folder, s3://… or registry://NAME@CHANNEL.")],
    data: Annotated[
        list[str], typer.Option(help="NAME=STORE, or a store named by its data set; repeat for several.")
    ],
    out: Annotated[Path, typer.Option(help="The evidence's folder.")],
    suite: Annotated[str, typer.Option(help="Which scenarios: quick, standard or full.")] = "quick",
    scenario: Annotated[
        list[str] | None, typer.Option(help="Only this one of the suite and what it builds on; repeatable.")
    ] = None,
    training: Annotated[
        str | None, typer.Option(help="Store whose train split learned attacks are fitted on.")
    ] = None,
    surrogate: Annotated[
        list[str] | None, typer.Option(help="Another detector, for transferred attacks; repeatable.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="At most this many crops of each video.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the attacks' random starts.")] = 0,
    as_json: Json = False,
) -> None:
    """Attack a detector and write the evidence and a report; exit code 1 if a guard tripped."""
    from dfcore.evaluation import SUITES, check_unseen, evaluate, get_suite

    scenarios = get_suite(suite, scenario or ())
    from components.release import Candidate, write_release_report
    from dfcore.models import load_detector
    from dfcore.release import fetch

    detector = load_detector(model)
    corpora = read_corpora(data, frames)
    check_unseen(detector, corpora)
    with progress_bar("evaluate") as progress:
        evidence = evaluate(
            detector,
            corpora,
            suite=suite if scenarios == SUITES[suite] else scenarios,
            name=out.name,
            out=out,
            seed=seed,
            training=None if training is None else training_crops(training),
            surrogates=[load_detector(uri) for uri in surrogate or ()],
            cache=out / "cache",
            progress=progress,
            device="auto",
        )
    crops = {name: corpus.crops for name, corpus in corpora.items()}
    report = write_release_report(out / "report.html", {out.name: Candidate(fetch(model), out)}, crops)
    show(evidence)
    emit(evidence.model_dump(mode="json"), as_json, f"evidence in {out}, report in {report}")
    if not evidence.valid:
        raise typer.Exit(1)


def read_corpora(data: list[str], frames: int) -> dict[str, Corpus]:
    """Read the test split of each store.

    Args:
        data: NAME=STORE, or STORE, which is named by its data set.
        frames: at most this many crops of each video.

    Raises:
        ConfigError: two stores of one name.
        DataError: no crop store, or one without a test split.
    """
    from dfcore.data import CropStore
    from dfcore.errors import ConfigError
    from dfcore.evaluation import read_corpus

    corpora: dict[str, Corpus] = {}
    for item in data:
        named = None if Path(item).exists() else _NAMED.fullmatch(item)
        store = CropStore.open(named[2] if named else item)
        name = named[1] if named else str(store.index["dataset"][0].as_py())
        if name in corpora:
            raise ConfigError(f"expected a name for each corpus, got {name!r} twice; give NAME=STORE")
        corpora[name] = read_corpus(store, max_frames_per_video=frames)
    return corpora


def training_crops(store: str) -> Crops:
    """Read one crop of each video of a store's train split."""
    from dfcore.data import CropStore

    return CropStore.open(store).select(split="train", max_frames_per_video=1)


def show(evidence: Evidence) -> None:
    """Show one model's results by corpus and scenario, and the guards that tripped."""
    rows = [
        [f"{result.corpus} {result.scenario}", f"{result.metrics['auc'].value:.3f}",
         f"{result.metrics['accuracy'].value:.3f}"]
        for result in evidence.results
        if result.slice == "all" and result.role == "report" and "auc" in result.metrics
    ]  # fmt: skip
    table("robustness", ["corpus, scenario", "AUC", "accuracy"], rows)
    if not evidence.valid:
        found = [[f"{guard.name}, {guard.corpus}", guard.detail] for guard in evidence.tripped()]
        table("INVALID: these guards tripped", ["guard, corpus", "detail"], found)
