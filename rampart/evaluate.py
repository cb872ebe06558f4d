"""rampart evaluate --model URI --data STORE --suite quick|standard|full --out DIR."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rampart.output import Json, emit, progress_bar, table

if TYPE_CHECKING:
    from dfcore.evaluation import Evidence


def evaluate(
    model: Annotated[str, typer.Option(help="A detector's folder, s3://… or registry://NAME@CHANNEL.")],
    data: Annotated[list[Path], typer.Option(help="Crop stores; their test splits are attacked.")],
    out: Annotated[Path, typer.Option(help="The evidence's folder.")],
    suite: Annotated[str, typer.Option(help="Which scenarios.")] = "quick",
    frames: Annotated[int, typer.Option(help="At most this many crops of each video.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the attacks' random starts.")] = 0,
    as_json: Json = False,
) -> None:
    """Attack a detector and write the evidence and a report."""
    from components.release import Candidate, write_release_report
    from components.stores import test_crops
    from dfcore.evaluation import evaluate
    from dfcore.models import load_detector
    from dfcore.release import fetch

    corpora, _ = test_crops(data, frames)
    detector = load_detector(model)
    with progress_bar("evaluate") as progress:
        evidence = evaluate(
            detector,
            corpora,
            suite=suite,
            name=out.name,
            out=out,
            seed=seed,
            progress=progress,
            device="auto",
        )
    report = write_release_report(out / "report.html", {out.name: Candidate(fetch(model), out)}, corpora)
    show(evidence)
    emit(evidence.model_dump(mode="json"), as_json, f"evidence in {out}, report in {report}")


def show(evidence: Evidence) -> None:
    """Show one model's results by corpus and scenario."""
    rows = [
        [f"{result.corpus} {result.scenario}", f"{result.metrics['auc'].value:.3f}",
         f"{result.metrics['accuracy'].value:.3f}"]
        for result in evidence.results if result.slice == "all" and result.role == "report"
    ]  # fmt: skip
    table("robustness", ["corpus, scenario", "AUC", "accuracy"], rows)
