"""rampart attack --model URI --data STORE --attack NAME --set k=v --out DIR."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rampart.output import Json, Set, emit

if TYPE_CHECKING:
    import torch

    from dfcore.attacks import Attack
    from dfcore.data import Crops
    from dfcore.models import Detector


def attack(  # noqa: PLR0913  # each argument is one option
    model: Annotated[str, typer.Option(help="A detector's folder, s3://… or registry://NAME@CHANNEL.")],
    data: Annotated[str, typer.Option(help="A crop store; its test split is attacked.")],
    attack: Annotated[str, typer.Option(help="fgsm, pgd, …")],
    out: Annotated[Path, typer.Option(help="Folder for the attacked faces as PNG.")],
    count: Annotated[int, typer.Option(min=1, help="How many crops.")] = 16,
    frames: Annotated[int, typer.Option(min=1, help="Crops of each video; a video's are attacked together "
                                                    "by attacks on videos.")] = 1,
    training: Annotated[
        str | None, typer.Option(help="Store whose train split a learned attack is fitted on.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random start.")] = 0,
    assignments: Set = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Attack some faces of a crop store, write them and how the scores moved."""
    import torch

    from dfcore.attacks import build_attack
    from dfcore.data import CropStore
    from dfcore.evaluation import craft
    from dfcore.models import fold_batch_norm, load_detector
    from rampart.pipeline import parse_assignments

    built = build_attack({"kind": attack, **parse_assignments(assignments or [])})
    detector = load_detector(model)
    crops = _spread(CropStore.open(data).select(split="test", max_frames_per_video=frames), count)
    built = _fitted(built, detector, training, crops, seed)
    images, labels = crops.tensor("cpu"), torch.from_numpy(crops.labels)
    attacked = craft(
        built, fold_batch_norm(detector), images, labels, crops.video_ids.tolist(),
        torch.Generator().manual_seed(seed),
    )  # fmt: skip
    threshold = detector.threshold
    with torch.inference_mode():
        before, after = detector(images).sigmoid().tolist(), detector(attacked).sigmoid().tolist()
    rows = [
        {"video": str(video), "label": int(label), "before": clean, "after": moved,
         "fooled": (clean >= threshold) == bool(label) != (moved >= threshold)}
        for video, label, clean, moved in zip(crops.video_ids, crops.labels, before, after, strict=True)
    ]  # fmt: skip
    write_faces(out, attacked)
    document = {"attack": built.model_dump(mode="json"), "threshold": threshold, "faces": rows}
    fooled = sum(bool(row["fooled"]) for row in rows)
    emit(document, as_json, f"{fooled} of {len(rows)} decisions turned; faces in {out}")


def _spread(crops: Crops, count: int) -> Crops:
    """Choose crops evenly over the split, so that both classes and many methods are among them."""
    count = min(count, len(crops))
    return crops.subset([index * len(crops) // count for index in range(count)])


def _fitted(built: Attack, detector: Detector, training: str | None, crops: Crops, seed: int) -> Attack:
    from dfcore.attacks import LearnedAttack, Universal
    from dfcore.errors import ConfigError, DataError
    from dfcore.evaluation import fit_attack
    from rampart.evaluate import training_crops

    if not isinstance(built, LearnedAttack | Universal) or built.weights is not None:
        return built
    if training is None:
        raise ConfigError(
            f"expected a store with training identities to fit {built.kind} on, got none; give --training, "
            "or --set weights=FILE of one that is fitted"
        )
    known = training_crops(training)
    if shared := sorted(set(known.group_ids.tolist()) & set(crops.group_ids.tolist())):
        raise DataError(f"expected other people to fit {built.kind} on than are attacked, got {shared[:3]}")
    return fit_attack(built, detector, known, seed)


def write_faces(out: Path, images: torch.Tensor) -> None:
    """Write images (N, 3, H, W) float32 in [0, 1] as PNG files."""
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for index, face in enumerate(pixels):
        Image.fromarray(face).save(out / f"{index:04d}.png")
