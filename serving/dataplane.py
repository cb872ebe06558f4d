"""The door in front of the model: bodies that KServe's SDK answers with a 500 get a 4xx here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from serving._kserve import BadRequest, DataPlane, InferInput, InferRequest, RequestedOutput
from serving.metrics import input_rejected

__all__ = ["BodyLimit", "StrictDataPlane", "answer_validation_errors"]

_HEADER = "inference-header-content-length"
_SHOWN = 5

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _Output(BaseModel):
    name: str
    parameters: dict[str, Any] = {}


class _Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Document(BaseModel):
    inputs: list[_Tensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


class StrictDataPlane(DataPlane):  # type: ignore[misc]  # KServe ships no types
    """KServe's data plane, with binary tensors read without a detour through UTF-8 and bad bodies named."""

    def decode(
        self,
        body: Any,
        headers: Mapping[str, str],
        protocol_version: str = "v1",
        model_name: str | None = None,
    ) -> Any:
        """Decode a body as KServe does.

        Raises:
            BadRequest: it is no JSON, or no document of the protocol.
        """
        try:
            return super().decode(body, headers, protocol_version, model_name)
        except BadRequest as error:
            input_rejected.labels("not_json").inc()
            raise BadRequest(f"expected a JSON body of the {protocol_version} protocol: {error}") from error

    def decode_inference_request(
        self, body: Any, headers: Mapping[str, str], model_name: str
    ) -> InferRequest:
        """Decode a V2 request; with binary tensors these follow the JSON document.

        Raises:
            BadRequest: the header, the document or the tensors' sizes don't fit.
        """
        if not isinstance(body, bytes):
            return super().decode_inference_request(body, headers, model_name)
        stated = headers.get(_HEADER, str(len(body)))
        if not stated.isdecimal() or int(stated) > len(body):
            raise BadRequest(f"expected {_HEADER} of at most {len(body)}, got {stated[:20]!r}")
        try:
            document = _Document.model_validate_json(body[: int(stated)])
        except ValidationError as error:
            raise BadRequest(_explain(error.errors(include_input=False))) from error
        inputs = _attach(document.inputs, body[int(stated) :])
        outputs = [RequestedOutput(item.name, item.parameters) for item in document.outputs or ()]
        return InferRequest(
            model_name=model_name,
            infer_inputs=inputs,
            request_id=document.id,
            parameters=document.parameters,
            request_outputs=outputs or None,
        )


def _attach(tensors: list[_Tensor], binary: bytes) -> list[InferInput]:
    start, inputs = 0, []
    for tensor in tensors:
        item = InferInput(tensor.name, tensor.shape, tensor.datatype, tensor.data, tensor.parameters)
        if tensor.data is None:
            size = tensor.parameters.get("binary_data_size")
            if not isinstance(size, int) or not 0 <= size <= len(binary) - start:
                raise BadRequest(
                    f"expected data or a binary_data_size of at most {len(binary) - start} "
                    f"for input {tensor.name[:80]!r}, got {str(size)[:20]}"
                )
            item._raw_data = binary[start : start + size]
            start += size
        inputs.append(item)
    return inputs


def _explain(errors: Any) -> str:
    problems = (f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in errors[:_SHOWN])
    return "expected an Open Inference Protocol request, got " + "; ".join(problems)


def answer_validation_errors(app: FastAPI) -> None:
    """Answer a V2 document that does not fit with a 400 that doesn't echo the whole body."""

    async def answer(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        input_rejected.labels("malformed").inc()
        return JSONResponse({"error": _explain(error.errors())}, status_code=400)

    app.add_exception_handler(RequestValidationError, answer)


class BodyLimit:
    """ASGI middleware: a body beyond the limit is answered with 413 before it is read into memory."""

    def __init__(self, app: Callable[..., Awaitable[None]], max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        chunks: list[Message] = []
        size, more = _stated_length(scope), True
        while more and size <= self._max_bytes:
            message = await receive()
            chunks.append(message)
            more = bool(message.get("more_body"))
            size = max(size, sum(len(chunk.get("body", b"")) for chunk in chunks))
        if size > self._max_bytes:
            input_rejected.labels("too_large").inc()
            text = f"expected a body of at most max_body_bytes={self._max_bytes}, got {size} bytes or more"
            await JSONResponse({"error": text}, status_code=413)(scope, receive, send)
            return

        async def replay() -> Message:
            return chunks.pop(0) if chunks else await receive()

        await self._app(scope, replay, send)


def _stated_length(scope: Message) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
