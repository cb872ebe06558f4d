"""rampart predict FILE… --model URI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rampart.output import Json, emit


def predict(
    files: Annotated[list[Path], typer.Argument(help="Images and videos.")],
    model: Annotated[str, typer.Option(help="A bundle's folder, s3://… or registry://NAME@CHANNEL.")],
    public_key: Annotated[Path | None, typer.Option(help="What the signature must match.")] = None,
    allow_unsigned: Annotated[bool, typer.Option("--allow-unsigned", help="Also a training output.")] = False,
    as_json: Json = False,
) -> None:
    """Say for each file whether the face in it is real or fake."""
    from dfcore.errors import MediaError
    from dfcore.preprocessing import is_video
    from serving import Predictor

    predictor = Predictor(model, public_key=public_key, allow_unsigned=allow_unsigned)
    answers: list[dict[str, Any]] = []
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise MediaError(f"expected an image or a video at {file}, got: {error.strerror}") from error
        answer = predictor.predict_video(data) if is_video(data) else predictor.predict_image(data)
        answers.append({"file": str(file), **answer.model_dump(mode="json")})
    emit(answers, as_json, "\n".join(describe(answer) for answer in answers))


def describe(answer: dict[str, Any]) -> str:
    """Return an answer in one line."""
    if answer["outcome"] != "ok":
        return f"{answer['file']}: no face found"
    score, threshold = answer["score"], answer["threshold"]
    return f"{answer['file']}: {answer['label']}, P(fake) {score:.3f}, threshold {threshold:.3f}"
