"""The detector as a KServe model: V1 and V2 in, answers out, never on the event loop."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, Protocol
from uuid import uuid4

import numpy as np
import torch

from dfcore.errors import CheckFailed, InvalidInput, RampartError
from serving._kserve import (
    BadRequest,
    InferenceVerb,
    InferOutput,
    InferRequest,
    InferResponse,
    Model,
    ModelNotReady,
)
from serving.admission import Gate, Overloaded
from serving.answers import Answer
from serving.auth import current_identity
from serving.explaining import Explainer, ExplainOptions, examine
from serving.inputs import parse_instances, parse_json, parse_tensor
from serving.media import Work
from serving.metrics import in_flight, input_rejected, publish_model, reloads, request_seconds
from serving.monitoring import Monitor
from serving.predictor import Predictor
from serving.protocol import OUTPUTS, RestRequest, decode_infer_request
from serving.rejection import RefusedInput, RejectedInput, reason_of
from serving.settings import ServerSettings

__all__ = ["DeepfakeModel"]

logger = logging.getLogger(__name__)

_EXPLAIN_SLOTS = 1


class OpenPredictor(Protocol):
    """How a bundle becomes a predictor that is warm."""

    def __call__(self, *, beside: bool) -> Predictor:
        """Fetch, verify, load and warm up."""


class DeepfakeModel(Model):  # type: ignore[misc]  # KServe ships no types
    """A KServe model around a `Predictor`.

    Args:
        name: name on the endpoint's path.
        open_predictor: fetches, verifies and loads the bundle, and warms it up; `beside` says whether
            requests are answered meanwhile.
        settings: limits, role and monitoring.

    Raises:
        ConfigError: monitoring can't work as it is set.
    """

    def __init__(self, name: str, open_predictor: OpenPredictor, settings: ServerSettings) -> None:
        super().__init__(name)
        self._open_predictor = open_predictor
        self._settings = settings
        self._monitor = Monitor(settings)
        # faces are found by small convolutions, which a second thread makes dearer and hardly faster:
        # requests share the cores instead. PyTorch keeps the number for each thread
        self._gate = Gate(
            settings.concurrency, settings.max_queue, settings.deadline_seconds, "max_queue",
            partial(torch.set_num_threads, 1),
        )  # fmt: skip
        self._explain_gate = Gate(
            _EXPLAIN_SLOTS, settings.explain_queue, settings.deadline_seconds, "explain_queue",
            partial(torch.set_num_threads, settings.threads),
        )  # fmt: skip
        self._predictor: Predictor | None = None

    @property
    def predictor(self) -> Predictor:
        """The loaded predictor.

        Raises:
            ModelNotReady: none is loaded yet.
        """
        if self._predictor is None:
            raise ModelNotReady(self.name)
        return self._predictor

    @property
    def busy(self) -> int:
        """How many requests are inside."""
        return self._gate.inside + self._explain_gate.inside

    def load(self) -> bool:
        """Fetch, verify, load and warm up the bundle, then say so.

        Raises:
            BundleError: it is altered, incomplete or unsigned.
        """
        self._take(self._open_predictor(beside=False))
        self.ready = True
        return True

    def reload(self) -> Literal["replaced", "refused", "failed"]:
        """Load what the address names now, and replace the old one if it is whole.

        Requests under way end on the model that they began with.

        Returns:
            "refused" if the new one does not verify, "failed" if it could not be fetched or loaded now.
        """
        old = self.predictor
        try:
            new = self._open_predictor(beside=True)
        except (RampartError, OSError, RuntimeError) as error:  # torch raises RuntimeError: no memory, say
            outcome: Literal["refused", "failed"] = "refused" if isinstance(error, CheckFailed) else "failed"
            reloads.labels(outcome).inc()
            logger.error(
                "%s stays in service, the new version is %s: %s", old.identity.version, outcome, error
            )
            return outcome
        self._take(new)
        old.close()
        reloads.labels("replaced").inc()
        logger.info("%s replaced %s", new.identity.version, old.identity.version)
        return "replaced"

    def _take(self, predictor: Predictor) -> None:
        predictor.timer = lambda stage: request_seconds.labels(stage).time()
        publish_model(predictor.identity, predictor.threshold, predictor.histograms)
        unmeasured = sorted(set(self._settings.monitoring.policy.parts) - set(predictor.signs))
        if unmeasured and self._settings.role != "transformer":
            logger.warning("policy.parts of %s ignored: this server does not measure them", unmeasured)
        self._predictor = predictor

    def stop(self) -> None:
        """Let the threads end, and write what is left of the payload log."""
        self.ready = False
        self._monitor.close()
        self._gate.close()
        self._explain_gate.close()

    def get_input_types(self) -> list[dict[str, Any]]:
        """Describe the V2 inputs; a request gives one of the two."""
        size = self.predictor.preprocessing.image_size
        crops = {"name": "images", "datatype": "UINT8", "shape": [-1, size, size, 3]}
        files = {"name": "image_bytes", "datatype": "BYTES", "shape": [-1]}
        return [crops] if self._settings.role == "predictor" else [crops, files]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Describe the V2 outputs."""
        return [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in OUTPUTS.items()]

    def validate(self, payload: object) -> object:
        """Leave the checks to `preprocess`, which comes before."""
        return payload

    async def __call__(
        self,
        body: object,
        headers: Mapping[str, str] | None = None,
        verb: InferenceVerb = InferenceVerb.PREDICT,
    ) -> Any:
        """Answer one request.

        Raises:
            BadRequest: it does not fit; the message says what was expected and which limit it met.
            RefusedInput: the monitoring policy does not answer it.
            Overloaded: too many are waiting.
        """
        gate = self._explain_gate if verb == InferenceVerb.EXPLAIN else self._gate
        try:
            with gate.enter(), in_flight.track_inprogress():
                return await super().__call__(body, headers, verb)
        except InvalidInput as error:
            input_rejected.labels(reason_of(error)).inc()
            if isinstance(error, RefusedInput):
                raise
            raise BadRequest(str(error)) from error
        except Overloaded:
            input_rejected.labels("overload").inc()
            raise

    async def preprocess(self, payload: object, headers: Mapping[str, str] | None = None) -> object:
        """Decode the envelope of a prediction; an explanation's is decoded in its own queue."""
        return payload

    async def predict(self, payload: object, headers: Mapping[str, str] | None = None) -> Any:
        """Answer each instance; see `__call__`."""
        predictor = self.predictor
        return await self._gate.run(self._predict, predictor, payload, current_identity.get())

    async def explain(self, payload: object, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Explain each instance; see `__call__`."""
        if self._settings.role not in ("all", "explainer"):
            raise RejectedInput(
                "role", f"expected :explain at an explainer, got it at a {self._settings.role}"
            )
        predictor = self.predictor
        return await self._explain_gate.run(self._explain, predictor, payload, current_identity.get())

    def _predict(self, predictor: Predictor, payload: object, identity: str) -> Any:
        request, work = self._parse(payload)
        answers = self._monitor.answer(examine(predictor, work), identity, predictor.weights)
        if request is None:
            return {"predictions": [answer.model_dump(mode="json") for answer in answers]}
        return self._respond(request, answers)

    def _explain(self, predictor: Predictor, payload: object, identity: str) -> dict[str, Any]:
        document = parse_json(payload) if isinstance(payload, bytes) else payload
        options = ExplainOptions.read(document)
        work = parse_instances(document, self._settings, self._settings.explain_instances)
        with request_seconds.labels("explain").time():
            explained = Explainer(predictor, partial(self._monitor.judge, identity=identity)).explain(
                work, options
            )
        return {"explanations": [item.model_dump(mode="json") for item in explained]}

    def _parse(self, payload: object) -> tuple[InferRequest | None, Work]:
        with request_seconds.labels("parse").time():
            request = payload if isinstance(payload, InferRequest) else None
            if isinstance(payload, RestRequest):
                request = decode_infer_request(payload, self.name)
            if request is not None:
                return request, self._allowed(parse_tensor(request, self._settings))
            return None, self._allowed(parse_instances(payload, self._settings))

    def _allowed(self, work: Work) -> Work:
        role = self._settings.role
        if role == "explainer" or (role == "predictor" and not isinstance(work, np.ndarray)):
            wanted = "crops at a predictor" if role == "predictor" else ":explain at an explainer"
            raise RejectedInput("role", f"expected {wanted}, got another request")
        return work

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
            model_version=answers[0].model.version,
            infer_outputs=outputs,
            use_binary_outputs=request.use_binary_outputs,
            requested_outputs=request.request_outputs,
        )
