"""Component: the HTML report on both detectors."""

from kfp import dsl

from components.images import component


@component
def write_report(  # noqa: PLR0913  # KFP: inputs and outputs in one signature
    store: dsl.Input[dsl.Dataset],
    baseline: dsl.Input[dsl.Model],
    baseline_evidence: dsl.Input[dsl.Artifact],
    baseline_decision: dsl.Input[dsl.Artifact],
    robust: dsl.Input[dsl.Model],
    robust_evidence: dsl.Input[dsl.Artifact],
    robust_decision: dsl.Input[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Write verdicts, figures, curves and attacked faces to one self-contained page.

    Args:
        store: the crop store whose test faces are shown.
        baseline: the baseline's folder.
        baseline_evidence: its evidence.
        baseline_decision: the gate's decision on it.
        robust: the robust detector's folder.
        robust_evidence: its evidence.
        robust_decision: the gate's decision on it.
        report: the page.
    """
    from pathlib import Path

    from components.progress import say
    from components.release import Candidate, write_release_report
    from dfcore.data import CropStore

    say("report", "attacked faces and their CAMs")
    candidates = {
        "baseline": Candidate(
            *(Path(item.path) for item in (baseline, baseline_evidence, baseline_decision))
        ),
        "robust": Candidate(*(Path(item.path) for item in (robust, robust_evidence, robust_decision))),
    }
    crops = CropStore.open(Path(store.path))
    name = str(crops.index["dataset"][0].as_py())
    shown = {name: crops.select(split="test", max_frames_per_video=1)}
    write_release_report(Path(report.path), candidates, shown)
    say("report", "done")
