"""rampart predict FILE… --model URI [--explain DIR]."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rampart.output import Json, emit

if TYPE_CHECKING:
    from serving import ExplainedFace


def predict(
    files: Annotated[list[Path], typer.Argument(help="Images and videos.")],
    model: Annotated[str, typer.Option(help="A bundle's folder, s3://… or registry://NAME@CHANNEL.")],
    public_key: Annotated[Path | None, typer.Option(help="What the signature must match.")] = None,
    allow_unsigned: Annotated[bool, typer.Option("--allow-unsigned", help="Also a training output.")] = False,
    explain: Annotated[
        Path | None, typer.Option(help="Folder for what the detector looked at: PNG and JSON of each file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say for each file whether the face in it is real or fake."""
    from dfcore.errors import MediaError
    from dfcore.preprocessing import is_video
    from serving import Predictor

    predictor = Predictor(model, public_key=public_key, allow_unsigned=allow_unsigned)
    answers: list[dict[str, Any]] = []
    for number, file in enumerate(files):
        try:
            data = file.read_bytes()
        except OSError as error:
            raise MediaError(f"expected an image or a video at {file}, got: {error.strerror}") from error
        answer = predictor.predict_video(data) if is_video(data) else predictor.predict_image(data)
        answers.append({"file": str(file), **answer.model_dump(mode="json")})
        if explain is not None and answer.outcome == "ok":
            from serving.explaining import explain_file

            name = f"{number:03d}-{file.stem}"
            answers[-1]["explanation"] = str(_write(explain, name, explain_file(predictor, data)))
    emit(answers, as_json, "\n".join(describe(answer) for answer in answers))


def _write(folder: Path, name: str, found: ExplainedFace) -> Path:
    from dfcore.storage import write_atomic

    assert found.cam is not None, "a face was found"
    write_atomic(folder / f"{name}.png", base64.b64decode(found.cam.png))
    text = found.model_dump_json(indent=2, exclude={"cam": {"png"}})
    path = folder / f"{name}.json"
    write_atomic(path, f"{text}\n".encode())
    return path


def describe(answer: dict[str, Any]) -> str:
    """Return an answer in one line."""
    if answer["outcome"] != "ok":
        return f"{answer['file']}: no face found"
    score, threshold = answer["score"], answer["threshold"]
    text = f"{answer['file']}: {answer['label']}, P(fake) {score:.3f}, threshold {threshold:.3f}"
    # the combination alone: each sign is raised by one in a hundred clean inputs
    raised = answer["raised"]
    return f"{text}; looks attacked ({', '.join(raised)})" if "combined" in raised else text
