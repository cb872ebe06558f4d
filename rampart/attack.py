"""rampart attack --model URI --data STORE --attack NAME --set k=v --out DIR."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rampart.output import Json, Set, emit

if TYPE_CHECKING:
    import torch


def attack(  # noqa: PLR0913  # each argument is one option
    model: Annotated[str, typer.Option(help="A detector's folder, s3://… or registry://NAME@CHANNEL.")],
    data: Annotated[Path, typer.Option(help="A crop store; its test split is attacked.")],
    attack: Annotated[str, typer.Option(help="fgsm, pgd, …")],
    out: Annotated[Path, typer.Option(help="Folder for the attacked faces as PNG.")],
    count: Annotated[int, typer.Option(min=1, help="How many crops.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the random start.")] = 0,
    assignments: Set = None,
    as_json: Json = False,
) -> None:
    """Attack some faces of a crop store, write them and how the scores moved."""
    import torch

    from components.stores import test_crops
    from dfcore.attacks import build_attack
    from dfcore.models import load_detector
    from rampart.pipeline import parse_assignments

    built = build_attack({"kind": attack, **parse_assignments(assignments or [])})
    ((_, crops),) = test_crops([data], 1)[0].items()
    count = min(count, len(crops))
    crops = crops.subset([index * len(crops) // count for index in range(count)])
    detector = load_detector(model)
    images, labels = crops.tensor("cpu"), torch.from_numpy(crops.labels)
    threshold = detector.threshold
    attacked = built(
        detector, images, labels, threshold=threshold, generator=torch.Generator().manual_seed(seed)
    )
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


def write_faces(out: Path, images: torch.Tensor) -> None:
    """Write images (N, 3, H, W) float32 in [0, 1] as PNG files."""
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for index, face in enumerate(pixels):
        Image.fromarray(face).save(out / f"{index:04d}.png")
