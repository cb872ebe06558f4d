"""The Open Inference Protocol's request over REST: JSON, maybe followed by binary tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt, ValidationError

from serving._kserve import InferInput, InferRequest, RequestedOutput
from serving.rejection import RejectedInput

__all__ = ["LENGTH_HEADER", "OUTPUTS", "InferDocument", "RestRequest", "decode_infer_request"]

LENGTH_HEADER = "inference-header-content-length"
OUTPUTS = {"score": "FP32", "label": "BYTES", "outcome": "BYTES", "answer": "BYTES"}
_SHOWN = 5
_SHOWN_CHARACTERS = 80


class _Flags(BaseModel):
    model_config = ConfigDict(extra="ignore")
    binary_data: StrictBool | None = None
    binary_data_output: StrictBool | None = None
    binary_data_size: StrictInt | None = None


class OutputDocument(BaseModel):
    """One output that a request asks for."""

    name: str
    parameters: _Flags = _Flags()


class TensorDocument(BaseModel):
    """One input tensor."""

    name: str
    shape: list[int]
    datatype: str
    parameters: _Flags = _Flags()
    data: list[Any] | None = None


class InferDocument(BaseModel):
    """The JSON part of a request."""

    inputs: list[TensorDocument]
    id: str | None = None
    parameters: _Flags | None = None
    outputs: list[OutputDocument] | None = None


@dataclass(frozen=True, eq=False)
class RestRequest:
    """A V2 body that nobody has looked into yet; `stated` is the length of its JSON, from the header."""

    body: bytes
    stated: str | None


def decode_infer_request(request: RestRequest, model_name: str) -> InferRequest:
    """Decode a V2 request; binary tensors follow the JSON document.

    Raises:
        RejectedInput: the header, the document or the tensors' sizes don't fit.
    """
    body = request.body
    stated = str(len(body)) if request.stated is None else request.stated
    if not (stated.isascii() and stated.isdecimal() and len(stated) < 20 and int(stated) <= len(body)):
        raise RejectedInput(
            "malformed", f"expected {LENGTH_HEADER} of at most {len(body)}, got {stated[:20]!r}"
        )
    try:
        document = InferDocument.model_validate_json(body[: int(stated)])
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        reason = "not_json" if problems[0]["type"] == "json_invalid" else "malformed"
        raise RejectedInput(reason, _explain(problems)) from error
    requested = [item.name for item in document.outputs or ()]
    if not set(requested) <= set(OUTPUTS) or len(set(requested)) < len(requested):
        raise RejectedInput(
            "malformed",
            f"expected each output at most once of {', '.join(OUTPUTS)}, "
            f"got {str(requested)[:_SHOWN_CHARACTERS]}",
        )
    return InferRequest(
        model_name=model_name,
        infer_inputs=_attach(document.inputs, body[int(stated) :]),
        request_id=document.id,
        parameters=_dumped(document.parameters),
        request_outputs=[
            RequestedOutput(item.name, _dumped(item.parameters)) for item in document.outputs or ()
        ]
        or None,
    )


def _dumped(flags: _Flags | None) -> dict[str, Any]:
    return flags.model_dump(exclude_none=True) if flags else {}


def _attach(tensors: list[TensorDocument], binary: bytes) -> list[InferInput]:
    start, inputs = 0, []
    for tensor in tensors:
        item = InferInput(tensor.name, tensor.shape, tensor.datatype, tensor.data)
        if tensor.data is None:
            size = tensor.parameters.binary_data_size
            if size is None or not 0 <= size <= len(binary) - start:
                raise RejectedInput(
                    "shape",
                    f"expected data or a binary_data_size of at most {len(binary) - start} "
                    f"for input {tensor.name[:_SHOWN_CHARACTERS]!r}, got {str(size)[:20]}",
                )
            item._raw_data = binary[start : start + size]
            start += size
        inputs.append(item)
    if start != len(binary):
        raise RejectedInput("shape", f"expected {start} binary bytes as the document says, got {len(binary)}")
    return inputs


def _explain(problems: Any) -> str:
    listed = (
        f"{'.'.join(str(part)[:_SHOWN_CHARACTERS] for part in item['loc'])}: {item['msg']}"
        for item in problems[:_SHOWN]
    )
    return "expected an Open Inference Protocol request, got " + "; ".join(listed)
