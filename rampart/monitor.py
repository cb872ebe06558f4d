"""rampart monitor evaluate | score | drift | export: how much the attack scores see, and what comes in.

rampart monitor evaluate --model URI --data STORE --out DIR
rampart monitor score FILE… --model URI
rampart monitor score --data STORE --model URI --out REFERENCE
rampart monitor drift --reference REFERENCE --current s3://…/payloads
rampart monitor export --store s3://…/registry --port 9108
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from rampart.output import Json, emit, progress_bar, table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dfcore.data import Crops
    from dfcore.models import Detector
    from dfcore.monitoring import AttackScorer, Record
    from dfcore.monitoring.fitting import Attacker
    from dfcore.preprocessing import FaceDetector, PreprocessingConfig

__all__ = ["app", "attackers", "fit_reference"]

app = typer.Typer(help="Attack scores on trial, attack scores of files, drift.", no_args_is_help=True)

_SEARCHED = 4  # images that the query attacker searches around, one after the other

Model = Annotated[str, typer.Option(help="A detector's folder, s3://… or registry://NAME@CHANNEL.")]
Reference = Annotated[
    Path | None, typer.Option(help="reference.json with attack scores; else the bundle's own.")
]
Squeezers = Annotated[
    int | None, typer.Option(help="Squeezed copies of each crop: 0, 1 or 3; else what its cost allows.")
]


@app.callback()
def monitor() -> None:
    """Attack scores on trial, attack scores of files, drift."""


@app.command("evaluate")
def evaluate(  # noqa: PLR0913  # each argument is one option
    model: Model,
    data: Annotated[str, typer.Option(help="A crop store; its test split is attacked.")],
    out: Annotated[Path, typer.Option(help="Folder for attack_scores.json and its plot.")],
    reference: Reference = None,
    squeezers: Squeezers = None,
    count: Annotated[int, typer.Option(min=16, help="Crops at most.")] = 256,
    frames: Annotated[int, typer.Option(min=1, help="Crops of each video at most.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Only 8/255, and a short adaptive attack.")] = False,
    seed: Annotated[int, typer.Option(help="Of the attacks.")] = 0,
    as_json: Json = False,
) -> None:
    """Attack a detector with and without knowledge of its attack scores: ROC, TPR at 1 % FPR."""
    from dfcore.attacks import build_attack
    from dfcore.data import CropStore
    from dfcore.models import load_detector
    from dfcore.monitoring.trial import trial, trial_queries
    from dfcore.storage import write_atomic

    detector = load_detector(model)
    store = CropStore.open(data)
    known = _read_reference(model, reference)
    if known is None:
        known = fit_reference(detector, store.select(split="val", max_frames_per_video=4), seed)
        write_atomic(out / "reference.json", f"{json.dumps(known)}\n".encode())
    scorer = _scorer(detector, known, squeezers)
    crops = store.select(split="test", max_frames_per_video=frames)
    crops = crops.subset([index * len(crops) // count for index in range(count)] if count < len(crops) else
                         range(len(crops)))  # fmt: skip
    with progress_bar("evaluate attack scores") as progress:
        found = trial(scorer, crops, attackers(scorer, quick=quick), seed=seed, progress=progress)
    square = build_attack({"kind": "square", "epsilon": "8/255", "queries": 100 if quick else 500})
    images = 1 if quick else _SEARCHED
    searched = crops.subset([row * len(crops) // images for row in range(images)])
    found["queries"] = {"square 8/255": trial_queries(detector, searched, square, seed=seed)}
    document = {"attack_scores": {**found, "seed": seed, "fit": _fit_of(known)}}
    write_atomic(out / "attack_scores.json", f"{json.dumps(document, indent=2)}\n".encode())
    plot(out / "attack_scores.png", found)
    _show(found)
    emit(document, as_json, f"{out / 'attack_scores.json'}, {out / 'attack_scores.png'}")


@app.command("score")
def score(  # noqa: PLR0913  # each argument is one option
    model: Model,
    files: Annotated[list[Path] | None, typer.Argument(help="Images and videos.")] = None,
    data: Annotated[str | None, typer.Option(help="A crop store instead of files.")] = None,
    split: Annotated[str, typer.Option(help="Of the store.")] = "val",
    out: Annotated[
        str | None, typer.Option(help="Folder or s3://… for a payload log, such as drift's reference.")
    ] = None,
    reference: Reference = None,
    squeezers: Squeezers = None,
    as_json: Json = False,
) -> None:
    """Score files, or each video of a store, for signs of an attack."""
    from dfcore.errors import BundleError, ConfigError
    from dfcore.models import load_detector
    from dfcore.models.bundle import fetch
    from dfcore.models.card import WEIGHTS_FILE
    from dfcore.monitoring import PayloadLog
    from dfcore.provenance import sha256_file

    if bool(files) == bool(data):
        raise ConfigError("expected files or --data, got both or neither; give one")
    detector = load_detector(model)
    known = _read_reference(model, reference)
    if known is None:
        raise BundleError(
            f"expected a reference with attack scores for {model}, got none; give --reference, such as "
            "`rampart monitor evaluate` writes, or publish the bundle again"
        )
    scorer = _scorer(detector, known, squeezers)
    weights = sha256_file(fetch(model) / WEIGHTS_FILE)
    inputs = _store_inputs(data, split) if data else _file_inputs(detector, files or [])
    records = [_record(scorer, weights, one) for one in inputs]
    if out is not None:
        with PayloadLog(out) as log:
            for record in records:
                log.append(record)
    rows = [
        {"name": one.request, "score": one.score, "attack": dict(one.attack), "flags": list(one.flags)}
        for one in records
    ]
    emit(rows, as_json, "\n".join(_describe(one) for one in records))


@app.command("drift")
def drift(  # each argument is one option
    reference: Annotated[
        str, typer.Option(help="Payload log of the data that the detector was accepted on.")
    ],
    current: Annotated[str, typer.Option(help="Payload log of the server: a folder, a file or s3://….")],
    since: Annotated[datetime | None, typer.Option(help="Only rows from then on (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option(help="Only rows before (UTC).")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the report.")] = None,
    seed: Annotated[int, typer.Option(help="Of draws and permutations.")] = 0,
    as_json: Json = False,
) -> None:
    """Compare what came in with the reference, slice by slice; exit code 1 where it drifted."""
    from dfcore.monitoring import read_payloads
    from dfcore.monitoring.drift import DriftConfig, measure_drift
    from dfcore.storage import write_atomic

    first, last = _seconds(since), _seconds(until)
    with progress_bar("drift") as progress:
        report = measure_drift(
            read_payloads(reference), read_payloads(current, first, last), DriftConfig(seed=seed), progress
        )
    document = report.model_dump(mode="json")
    if out is not None:
        write_atomic(out, f"{json.dumps(document, indent=2)}\n".encode())
    rows = [
        [one.slice, str(one.current), *("-" if value is None else f"{value:.3f}" for value in
         (one.auc, one.auc_p, one.mmd, one.psi.get("score"))), "; ".join(one.reasons) or "stable"]
        for one in report.slices
    ]  # fmt: skip
    table("drift", ["slice", "rows", "AUC", "p", "MMD", "PSI of the score", "verdict"], rows)
    emit(document, as_json, "drifted" if report.drifted else "stable")
    if report.drifted:
        raise typer.Exit(1)


@app.command("export")
def export(
    store: Annotated[str, typer.Option(envvar="RAMPART_REGISTRY", help="file://… or s3://….")],
    host: Annotated[str, typer.Option(help="What to listen on; 0.0.0.0 in a container.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="/metrics and /healthz.")] = 9108,
    interval: Annotated[float, typer.Option(help="Seconds between two readings.")] = 60.0,
) -> None:
    """Serve the registry's channels, evidence and decisions as Prometheus metrics."""
    from serving.kpi_exporter import ExportSettings, run_exporter

    given = {"host": host, "port": port, "interval_seconds": interval}
    run_exporter(store, ExportSettings.parse(given, "command line"))


def fit_reference(detector: Detector, crops: Crops, seed: int = 0) -> dict[str, Any]:
    """Build a reference with attack scores fitted against `STATIC_ATTACKERS`."""
    from dfcore.attacks import build_attack
    from dfcore.monitoring import STATIC_ATTACKERS, build_reference

    return build_reference(
        detector, crops, attackers=[build_attack(one) for one in STATIC_ATTACKERS], seed=seed
    )


def attackers(scorer: AttackScorer, *, quick: bool) -> dict[str, Attacker]:
    """Return the attackers of a trial: those who do not know the scores, and the adaptive ones."""
    import torch

    from dfcore.attacks import JPEG, build_attack
    from dfcore.monitoring.trial import TRIAL_ATTACKERS, Adaptive

    chosen = {name: one for name, one in TRIAL_ATTACKERS.items() if not quick or "gd 8/255" in name}
    channel = JPEG(quality=(75, 75))
    proxies = {
        "jpeg_75": lambda images: channel(images, torch.Generator()),
        "bits_4": lambda images: images,
    }
    found: dict[str, Attacker] = {name: build_attack(one) for name, one in chosen.items()}
    for epsilon, step in (("8/255", "1/255"),) if quick else (("4/255", "0.5/255"), ("8/255", "1/255")):
        pgd = {"kind": "pgd", "epsilon": epsilon, "step_size": step, "steps": 20 if quick else 50}
        found[f"adaptive pgd {epsilon}"] = Adaptive(build_attack(pgd), scorer, proxies)
    return found


def plot(path: Path, found: Mapping[str, Any]) -> None:
    """Draw the combined score's ROC against each attacker, FPR on a logarithmic axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(
        xscale="log", xlim=(1e-3, 1), ylim=(0, 1.02), xlabel="false positive rate, clean crops",
        ylabel="attacked crops found", title="Combined attack score",
    )  # fmt: skip
    for name, one in found["attackers"].items():
        style = "--" if name.startswith("adaptive") else "-"
        axes.plot(one["roc"]["fpr"], one["roc"]["tpr"], style, label=name, drawstyle="steps-post")
    axes.plot([1e-3, 1], [1e-3, 1], ":", color="grey", label="chance")
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _scorer(detector: Detector, known: Mapping[str, Any], squeezers: int | None) -> AttackScorer:
    from dfcore.errors import ConfigError
    from dfcore.monitoring import VARIANTS, AttackScorer

    if squeezers is None:
        return AttackScorer(detector, known)
    chosen = {len(one): one for one in VARIANTS}
    if squeezers not in chosen:
        raise ConfigError(f"expected --squeezers as one of {sorted(chosen)}, got {squeezers}")
    return AttackScorer(detector, known, chosen[squeezers])


def _read_reference(model: str, given: Path | None) -> dict[str, Any] | None:
    from dfcore.errors import BundleError
    from dfcore.models.bundle import fetch

    path = given or fetch(model) / "reference.json"
    if given is None and not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"expected a reference at {path}, got: {error}; rebuild the bundle") from error
    return found if given is not None or "attack_scores" in found else None


class _Input(NamedTuple):
    """One image or video: its crops (N, S, S, 3) uint8, and whether they are frames of one video."""

    name: str
    crops: NDArray[np.uint8]
    is_clip: bool
    slices: Mapping[str, str]


def _store_inputs(store: str, split: str) -> Iterator[_Input]:
    import numpy as np

    from dfcore.data import CropStore

    crops = CropStore.open(store).select(split=split)
    names = np.char.add(np.char.add(crops.video_ids, " "), crops.methods)
    for name in dict.fromkeys(names.tolist()):
        rows = np.flatnonzero(names == name)
        yield _Input(name, crops.images[rows], True, {"compression": str(crops.compressions[rows[0]])})


def _file_inputs(detector: Detector, files: list[Path]) -> Iterator[_Input]:
    from dfcore.errors import BundleError, MediaError
    from dfcore.preprocessing import build_face_detector

    if detector.card is None:
        raise BundleError("expected a detector with its card, got one without; give a bundle")
    wanted = detector.card.preprocessing
    faces = build_face_detector(wanted, "cpu")
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise MediaError(f"expected an image or a video at {file}, got: {error.strerror}") from error
        crops, is_clip = _crops_of(data, faces, wanted)
        if not len(crops):
            raise MediaError(f"expected a face in {file}, found none")
        yield _Input(str(file), crops, is_clip, {})


def _crops_of(
    data: bytes, faces: FaceDetector, wanted: PreprocessingConfig
) -> tuple[NDArray[np.uint8], bool]:
    """Return crops (N, S, S, 3) uint8 and whether they are frames of one video."""
    import numpy as np

    from dfcore.preprocessing import (
        Frame,
        MediaLimits,
        crop_face,
        decode_image,
        decode_video,
        extract_faces,
        face_size,
        is_video,
    )

    limits = MediaLimits()
    if is_video(data):
        found = extract_faces(decode_video(data, wanted.frames_per_video, limits), faces, wanted)
        images = [crop.image for crop in found]
    else:
        image = decode_image(data, limits)
        (boxes,) = faces.detect([image], min_face=wanted.min_face)
        images = [
            crop_face(Frame(image, 0, 0.0), face, wanted.image_size, wanted.margin).image
            for face in boxes
            if face.confidence >= wanted.min_confidence and face_size(face) >= wanted.min_face
        ]
    return np.stack(images) if images else np.zeros((0, 1, 1, 3), dtype=np.uint8), is_video(data)


def _record(scorer: AttackScorer, weights: str, given: _Input) -> Record:
    """Judge an input as the server does: a video as a whole, an image by its most suspicious face."""
    import numpy as np

    from dfcore.monitoring import Record
    from dfcore.preprocessing import blur

    judged = scorer.score(given.crops)
    row = 0 if given.is_clip else int(judged.scores.argmax())
    judged = judged.pooled() if given.is_clip else judged
    signs = {part: float(values[row]) for part, values in judged.parts.items()}
    return Record(
        time=time.time(),
        request=given.name,
        model=scorer.detector.config.backbone,
        version="",
        weights=weights,
        score=float(judged.scores[row]),
        attack={**signs, "combined": float(judged.combined[row])},
        flags=[kind for kind, raised in judged.flags.items() if raised[row]],
        quality={"blur": float(np.median([blur(crop) for crop in given.crops]))},
        slices=given.slices,
        embedding=judged.features[row],
    )


def _seconds(moment: datetime | None) -> float | None:
    from datetime import UTC

    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def _fit_of(known: Mapping[str, Any]) -> dict[str, Any]:
    fitted = known["attack_scores"]
    return {
        name: fitted[name]
        for name in ("false_positive_rate", "clean", "attacked", "attained", "weights", "fitted_against")
    }


def _describe(record: Record) -> str:
    flags = ", ".join(record.flags) or "nothing"
    share = record.attack["combined"]
    return f"{record.request}: P(fake) {record.score:.3f}, attack score {share:.3f}, raised: {flags}"


def _show(found: Mapping[str, Any]) -> None:
    rows = [
        [name, f"{one['fooled']:.2f}", f"{one['signs']['combined']['auc']:.3f}",
         f"{one['signs']['combined']['tpr_at_1_fpr']:.2f}", f"{one['undetected']:.2f}"]
        for name, one in found["attackers"].items()
    ]  # fmt: skip
    columns = ["attacker", "fooled", "AUC", "TPR at 1 % FPR", "fooled and not flagged"]
    table(
        f"combined attack score, {found['clean']['all']['combined']:.3f} of clean crops flagged",
        columns,
        rows,
    )
