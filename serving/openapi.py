"""The OpenAPI document: what a client may send and what it gets, tested against the server."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from serving.answers import Answer, ExplainedFace, VideoAnswer
from serving.explaining import ExplainOptions
from serving.protocol import InferDocument

__all__ = ["openapi_document"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Base64(_Document):
    """A file."""

    b64: str = Field(min_length=4, json_schema_extra={"format": "byte"})


class ImageInstance(_Document):
    """A JPEG, PNG, WebP, AVIF or BMP."""

    image: Base64


class VideoInstance(_Document):
    """An MP4, MOV, Matroska, WebM, AVI, FLV or MPEG-TS."""

    video: Base64


class UriInstance(_Document):
    """A file below an allowed address."""

    uri: str


class CropInstance(_Document):
    """A face crop as rows of pixels [red, green, blue]; all instances of a request, or none."""

    crop: list[list[list[int]]]


Instance = ImageInstance | VideoInstance | UriInstance | CropInstance


class PredictRequest(BaseModel):
    """A V1 request."""

    instances: list[Instance] = Field(min_length=1)


class PredictResponse(BaseModel):
    """One answer for each instance, in order."""

    predictions: list[VideoAnswer | Answer]


class ExplainRequest(PredictRequest):
    """A request for explanations."""

    parameters: ExplainOptions = ExplainOptions()


class ExplainResponse(BaseModel):
    """One explanation for each instance, in order."""

    explanations: list[ExplainedFace]


class OutputTensor(BaseModel):
    """A V2 output; `answer` holds JSON texts like V1's predictions."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class InferResponse(BaseModel):
    """A V2 response."""

    id: str
    model_name: str
    model_version: str
    outputs: list[OutputTensor]


class Problem(BaseModel):
    """What was expected, and what came."""

    error: str


_REFUSALS = {
    "400": "The request does not fit, or exceeds a limit that the text names.",
    "401": "No valid bearer token.",
    "403": "The monitoring policy does not answer it: it looks attacked.",
    "404": "No such model.",
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "429": "Too many requests; Retry-After says when to come again.",
    "503": "The model is not loaded yet, or the server drains.",
}


@lru_cache(maxsize=1)
def openapi_document() -> dict[str, Any]:
    """Return the document that /openapi.json shows."""
    models: tuple[type[BaseModel], ...] = (
        PredictRequest, PredictResponse, ExplainRequest, ExplainResponse, InferDocument, InferResponse,
        Problem,
    )  # fmt: skip
    _, schemas = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    posts: dict[str, tuple[str, type[BaseModel], type[BaseModel]]] = {
        "/v1/models/{name}:predict": ("Answer for images, videos or crops.", PredictRequest, PredictResponse),
        "/v1/models/{name}:explain": ("Say where the detector looked.", ExplainRequest, ExplainResponse),
        "/v2/models/{name}/infer": (
            "Answer for crops (input images, UINT8) or files (input image_bytes, BYTES).",
            InferDocument,
            InferResponse,
        ),
    }
    gets = {
        "/v2/health/live": "Liveness: the process answers.",
        "/v2/health/ready": "Readiness: the model is loaded and warm, and the server does not drain.",
        "/v2/models/{name}": "The model's inputs and outputs.",
        "/v2/models/{name}/ready": "Readiness of the model.",
        "/metrics": "Prometheus metrics.",
    }
    paths: dict[str, Any] = {path: {"post": _post(path, *parts)} for path, parts in posts.items()}
    paths |= {path: {"get": _get(path, text)} for path, text in gets.items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Rampart",
            "version": "1",
            "description": "Deepfake detection on KServe's protocols.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _post(path: str, summary: str, body: type[BaseModel], answer: type[BaseModel]) -> dict[str, Any]:
    content = {"application/json": {"schema": _reference(body)}}
    if path.startswith("/v2"):
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    refusals = {
        code: {"description": text, "content": {"application/json": {"schema": _reference(Problem)}}}
        for code, text in _REFUSALS.items()
    }
    good = {"description": "The answers.", "content": {"application/json": {"schema": _reference(answer)}}}
    return {
        "summary": summary,
        "parameters": _parameters(path),
        "requestBody": {"required": True, "content": content},
        "responses": {"200": good, **refusals},
    }


def _get(path: str, summary: str) -> dict[str, Any]:
    responses = {code: {"description": text} for code, text in _REFUSALS.items() if code in ("404", "503")}
    return {
        "summary": summary,
        "parameters": _parameters(path),
        "responses": {"200": {"description": "Yes."}, **responses},
    }


def _parameters(path: str) -> list[dict[str, Any]]:
    if "{name}" not in path:
        return []
    return [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
