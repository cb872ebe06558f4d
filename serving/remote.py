"""Scores from a predictor in another process: what a transformer asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import httpx
import numpy as np
import orjson

from dfcore.errors import RampartError
from dfcore.monitoring import Judgement
from dfcore.monitoring.scorer import COMBINED
from serving.admission import Overloaded
from serving.answers import Answer
from serving.protocol import LENGTH_HEADER
from serving.scoring import Crops, Scored
from serving.settings import ServerSettings

__all__ = ["PredictorUnavailable", "RemoteScorer"]

_OUTPUT = "answer"


class PredictorUnavailable(RampartError):
    """The predictor can't be reached or failed; answered with a 503."""


class _Transport(Protocol):
    def infer(self, crops: Crops) -> list[str]:
        """Return the answers' JSON texts."""


class RemoteScorer:
    """Sends crops to a predictor as a V2 binary tensor.

    Args:
        name: of the model there.
        settings: `predictor_host`, `predictor_protocol`, `predictor_token_file`, `deadline_seconds`,
            `max_instances` as the predictor's limit of crops.
    """

    def __init__(self, name: str, settings: ServerSettings) -> None:
        self._most = settings.max_instances
        make: type[_Rest] | type[_Grpc] = _Grpc if settings.predictor_protocol == "grpc-v2" else _Rest
        self._transport: _Transport = make(name, settings)

    def score(self, crops: Crops) -> Scored:
        """Score crops; see `Scorer`.

        Raises:
            Overloaded: the predictor has too much to do.
            PredictorUnavailable: it can't be reached, or failed.
        """
        answers: list[Answer] = []
        for start in range(0, len(crops), self._most):
            texts = self._transport.infer(crops[start : start + self._most])
            answers += [Answer.model_validate_json(text) for text in texts]
        if len(answers) != len(crops) or any(answer.score is None for answer in answers):
            raise PredictorUnavailable(f"expected {len(crops)} scores from the predictor, got {len(answers)}")
        return Scored(_judgement(answers), answers[0].model, answers[0].threshold)

    def close(self) -> None:
        """Keep the connections: requests that began before a reload still need them."""


def _judgement(answers: list[Answer]) -> Judgement:
    """Put the answers of single crops together; features stay with the predictor."""
    parts = [answer.attack_parts or {} for answer in answers]
    kinds = [] if answers[0].attack_score is None else [*parts[0], COMBINED]
    return Judgement(
        np.array([answer.score for answer in answers], dtype=np.float64),
        np.zeros((len(answers), 0), dtype=np.float32),
        {kind: np.array([part[kind] for part in parts]) for kind in parts[0]},
        np.array([answer.attack_score or 0.0 for answer in answers]),
        {kind: np.array([kind in answer.raised for answer in answers]) for kind in kinds},
    )


def _token(path: Path | None) -> str | None:
    # read for each request: the file may be rotated
    return path.read_text(encoding="utf-8").strip() if path else None


class _Rest:
    def __init__(self, name: str, settings: ServerSettings) -> None:
        self._path = f"/v2/models/{name}/infer"
        self._token_file = settings.predictor_token_file
        address = f"http://{settings.predictor_host}"
        self._client = httpx.Client(base_url=address, timeout=settings.deadline_seconds)

    def infer(self, crops: Crops) -> list[str]:
        tensor = {
            "name": "images",
            "shape": list(crops.shape),
            "datatype": "UINT8",
            "parameters": {"binary_data_size": crops.nbytes},
        }
        head = orjson.dumps({"inputs": [tensor], "outputs": [{"name": _OUTPUT}]})
        headers = {LENGTH_HEADER: str(len(head)), "content-type": "application/octet-stream"}
        if token := _token(self._token_file):
            headers["authorization"] = f"Bearer {token}"
        try:
            response = self._client.post(self._path, content=head + crops.tobytes(), headers=headers)
        except httpx.TransportError as error:
            raise PredictorUnavailable(f"expected the predictor to answer, got: {error!r}") from error
        if response.status_code == 429:
            raise Overloaded("the predictor's queue", 0)
        if response.status_code != 200:
            raise PredictorUnavailable(f"expected 200 from the predictor, got {response.status_code}")
        document: dict[str, Any] = response.json()
        return list(document["outputs"][0]["data"])


class _Grpc:
    def __init__(self, name: str, settings: ServerSettings) -> None:
        import grpc  # type: ignore[import-untyped]  # it ships no types

        from serving._kserve import grpc_predict_v2_pb2 as messages
        from serving._kserve import grpc_predict_v2_pb2_grpc as services

        self._name = name
        self._seconds = settings.deadline_seconds
        self._token_file = settings.predictor_token_file
        self._messages = messages
        size = settings.max_body_bytes
        options = [("grpc.max_send_message_length", size), ("grpc.max_receive_message_length", size)]
        self._channel = grpc.insecure_channel(str(settings.predictor_host), options=options)
        self._stub = services.GRPCInferenceServiceStub(self._channel)
        self._failure: Any = grpc.RpcError
        self._overload = grpc.StatusCode.RESOURCE_EXHAUSTED

    def infer(self, crops: Crops) -> list[str]:
        tensor = self._messages.ModelInferRequest.InferInputTensor(
            name="images", datatype="UINT8", shape=list(crops.shape)
        )
        request = self._messages.ModelInferRequest(
            model_name=self._name, inputs=[tensor], raw_input_contents=[crops.tobytes()]
        )
        token = _token(self._token_file)
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        try:
            response = self._stub.ModelInfer(request, timeout=self._seconds, metadata=metadata)
        except self._failure as error:
            if error.code() == self._overload:
                raise Overloaded("the predictor's queue", 0) from error
            raise PredictorUnavailable(f"expected the predictor to answer, got {error.code()}") from error
        return _texts(response)


def _texts(response: Any) -> list[str]:
    from serving._kserve import InferResponse

    (output,) = (item for item in InferResponse.from_grpc(response).outputs if item.name == _OUTPUT)
    return [value.decode() for value in output.as_numpy().tolist()]
