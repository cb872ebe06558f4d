"""The detector as a KServe model: V1 and V2 in, answers out, never on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import numpy as np

from dfcore.errors import InvalidInput, MediaError
from serving._kserve import BadRequest, InferOutput, InferRequest, InferResponse, Model
from serving.answers import Answer
from serving.inputs import Media, RejectedInput, parse_instances, parse_tensor
from serving.metrics import input_rejected, observe_answer, publish_model, request_seconds
from serving.predictor import Predictor
from serving.settings import ServerSettings

__all__ = ["DeepfakeModel"]

Work = np.ndarray | list[Media]


class DeepfakeModel(Model):  # type: ignore[misc]  # KServe ships no types
    """A KServe model around a `Predictor`.

    Args:
        name: name on the endpoint's path.
        open_predictor: fetches, verifies and loads the bundle.
        settings: limits.
    """

    def __init__(self, name: str, open_predictor: Callable[[], Predictor], settings: ServerSettings) -> None:
        super().__init__(name)
        self._open_predictor = open_predictor
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._predictor: Predictor | None = None

    @property
    def predictor(self) -> Predictor:
        """The loaded predictor."""
        assert self._predictor is not None, "KServe asks only after load()"
        return self._predictor

    def load(self) -> bool:
        """Fetch, verify and load the bundle, then say so.

        Raises:
            BundleError: it is altered, incomplete or unsigned.
        """
        predictor = self._open_predictor()
        predictor.timer = lambda stage: request_seconds.labels(stage).time()
        publish_model(predictor.identity, predictor.threshold, predictor.reference)
        self._predictor = predictor
        self.ready = True
        return True

    def get_input_types(self) -> list[dict[str, Any]]:
        """Describe the V2 inputs; a request gives one of the two."""
        size = self.predictor.preprocessing.image_size
        return [
            {"name": "images", "datatype": "UINT8", "shape": [-1, size, size, 3]},
            {"name": "image_bytes", "datatype": "BYTES", "shape": [-1]},
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Describe the V2 outputs."""
        return [
            {"name": name, "datatype": kind, "shape": [-1]}
            for name, kind in (
                ("score", "FP32"),
                ("label", "BYTES"),
                ("outcome", "BYTES"),
                ("answer", "BYTES"),
            )
        ]

    async def preprocess(
        self, payload: object, headers: Mapping[str, str] | None = None
    ) -> tuple[InferRequest | None, Work]:
        """Check the request and decode its envelope.

        Raises:
            BadRequest: it does not fit; the message says what was expected and which limit it met.
        """
        request = payload if isinstance(payload, InferRequest) else None
        work = await self._off_loop(self._parse, payload)
        return request, work

    async def predict(
        self, payload: tuple[InferRequest | None, Work], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        """Answer each instance.

        Raises:
            BadRequest: an image or video does not decode or exceeds a limit.
        """
        request, work = payload
        async with self._slots:
            answers = await self._off_loop(self._answer, work)
        for answer in answers:
            observe_answer(answer)
        if request is None:
            return {"predictions": [answer.model_dump(mode="json") for answer in answers]}
        return self._respond(request, answers)

    async def _off_loop(self, work: Callable[[Any], Any], argument: object) -> Any:
        try:
            return await asyncio.to_thread(work, argument)
        except InvalidInput as error:
            input_rejected.labels(_reason(error)).inc()
            raise BadRequest(str(error)) from error

    def _parse(self, payload: object) -> Work:
        if isinstance(payload, InferRequest):
            return parse_tensor(payload, self._settings)
        return parse_instances(payload, self._settings)

    def _answer(self, work: Work) -> list[Answer]:
        predictor = self.predictor
        if isinstance(work, np.ndarray):
            return predictor.predict_crops(work)
        return [_answer_media(predictor, media, index) for index, media in enumerate(work)]

    def _respond(self, request: InferRequest, answers: list[Answer]) -> InferResponse:
        scores = np.array([np.nan if item.score is None else item.score for item in answers], np.float32)
        columns: dict[str, list[str]] = {
            "label": [item.label or "" for item in answers],
            "outcome": [item.outcome for item in answers],
            "answer": [item.model_dump_json() for item in answers],
        }
        outputs = [InferOutput("score", [len(answers)], "FP32", data=scores)]
        for name, values in columns.items():
            data = np.array([value.encode() for value in values], dtype=np.object_)
            outputs.append(InferOutput(name, [len(answers)], "BYTES", data=data))
        return InferResponse(
            response_id=request.id or str(uuid4()),
            model_name=self.name,
            model_version=self.predictor.identity.version,
            infer_outputs=outputs,
            requested_outputs=request.request_outputs,
        )


def _answer_media(predictor: Predictor, media: Media, index: int) -> Answer:
    try:
        if media.kind == "video":
            return predictor.predict_video(media.data)
        return predictor.predict_image(media.data)
    except MediaError as error:
        raise MediaError(f"instances[{index}].{media.kind}: {error}") from error


def _reason(error: InvalidInput) -> str:
    if isinstance(error, RejectedInput):
        return error.reason
    return "media" if isinstance(error, MediaError) else "shape"
