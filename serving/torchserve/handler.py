"""TorchServe's handler: the same path from bytes to an answer as the KServe server's.

Its worker imports this module by the name in the archive's manifest, makes the one class of it, and calls
`initialize` and `handle`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dfcore.errors import InvalidInput
from dfcore.preprocessing import is_video
from serving.answers import ModelIdentity
from serving.explaining import examine
from serving.inputs import parse_instances
from serving.media import Media, Work
from serving.monitoring import Monitor
from serving.predictor import Predictor
from serving.rejection import RefusedInput, RejectedInput, reason_of
from serving.settings import choose_settings
from serving.torchserve.counters import Counters
from serving.torchserve.launch import IDENTITY, SETTINGS

__all__ = ["Handler"]

_CLIENT = "torchserve"  # one key for all clients: TorchServe does not tell them apart


class Handler:
    """Answers a JSON document of instances, or the bytes of one image or video."""

    def initialize(self, context: Any) -> None:
        """Load the detector that TorchServe has unpacked.

        Args:
            context: TorchServe's `Context`.

        Raises:
            BundleError: a part is missing or altered, or these libraries score otherwise.
        """
        settings = choose_settings(Path(os.environ[SETTINGS]) if SETTINGS in os.environ else None)
        torch.set_num_threads(settings.threads)
        folder = Path(context.system_properties["model_dir"])
        # the launcher has verified the archive's bundle; nothing is signed in what TorchServe unpacks from it
        predictor = Predictor(folder, name=context.model_name, allow_unsigned=True, engine=settings.engine)
        if IDENTITY in os.environ:
            predictor.identity = ModelIdentity.parse(json.loads(os.environ[IDENTITY]), IDENTITY)
        predictor.limits, predictor.max_faces = settings.media, settings.max_faces
        predictor.warm_up()
        self._predictor, self._settings, self._monitor = predictor, settings, Monitor(settings)
        self._counters = Counters(context.metrics, predictor.identity)
        self._counters.loaded(predictor.identity, predictor.threshold)

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Answer each request of a batch, a bad one with a 400 that says what was expected."""
        answers, began = [], time.perf_counter()
        for index, row in enumerate(data):
            try:
                if context.get_request_header(index, "explain") == "True":
                    raise RejectedInput("role", "expected a prediction; ask the KServe server to explain")
                document = self._answer(row)
            except InvalidInput as error:
                self._counters.rejected(reason_of(error))
                refused = isinstance(error, RefusedInput)
                context.set_response_status(403 if refused else 400, "Refused", index)
                document = {"error": str(error)}
            context.set_response_content_type(index, "application/json")
            answers.append(json.dumps(document).encode())
        context.metrics.add_time("HandlerTime", 1e3 * (time.perf_counter() - began), None, "ms")
        return answers

    def _answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        body = row.get("body", row.get("data", b""))
        body = body.encode() if isinstance(body, str) else bytes(body)
        if body.lstrip()[:1] == b"{":  # no image or video begins so
            return {"predictions": self._examine(parse_instances(body, self._settings))}
        if not body:
            raise RejectedInput("empty", 'expected a file or {"instances": [...]}, got zero bytes')
        (answer,) = self._examine([Media("video" if is_video(body) else "image", body)])
        return answer

    def _examine(self, work: Work) -> list[dict[str, Any]]:
        found = examine(self._predictor, work)
        answers = self._monitor.answer(found, _CLIENT, self._predictor.weights)
        for examined, answer in zip(found, answers, strict=True):
            self._counters.answered(examined.answer, answer)
        return [answer.model_dump(mode="json") for answer in answers]
