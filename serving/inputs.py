"""What a request asks for: V1 instances and V2 tensors, checked before anything is computed."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dfcore.errors import DataError, InvalidInput
from dfcore.preprocessing import is_video
from dfcore.storage import open_store
from serving._kserve import InferInput, InferRequest
from serving.settings import ServerSettings

__all__ = ["Media", "RejectedInput", "parse_instances", "parse_tensor"]

_SHOWN = 80


class RejectedInput(InvalidInput):
    """A request that does not fit; `reason` labels the metric."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Media:
    """One file of a request."""

    kind: Literal["image", "video"]
    data: bytes


def parse_instances(payload: object, settings: ServerSettings) -> list[Media]:
    """Read `{"instances": [{"image": {"b64": …}} | {"video": {"b64": …}} | {"uri": …}]}`.

    Raises:
        RejectedInput: it is no such document, or beyond a limit.
    """
    if isinstance(payload, bytes | bytearray):
        payload = _parse_json(bytes(payload))
    if not isinstance(payload, dict) or not isinstance(payload.get("instances"), list):
        got = f"keys {sorted(payload)}" if isinstance(payload, dict) else type(payload).__name__
        raise RejectedInput("malformed", f'expected {{"instances": [...]}}, got {got[:_SHOWN]}')
    instances = payload["instances"]
    _check_count(len(instances), settings)
    return [_parse_instance(instance, index, settings) for index, instance in enumerate(instances)]


def parse_tensor(request: InferRequest, settings: ServerSettings) -> np.ndarray | list[Media]:
    """Read the V2 input `images` (uint8 crops (N, S, S, 3)) or `image_bytes` (files; text is base64).

    Raises:
        RejectedInput: another name, type or shape, data that does not fill it, or beyond a limit.
    """
    names = [tensor.name for tensor in request.inputs]
    if names not in (["images"], ["image_bytes"]):
        raise RejectedInput(
            "malformed", f"expected one input, images or image_bytes, got {str(names)[:_SHOWN]}"
        )
    tensor = request.inputs[0]
    expected = "UINT8" if tensor.name == "images" else "BYTES"
    if tensor.datatype != expected:
        raise RejectedInput(
            "dtype", f"expected {tensor.name} of type {expected}, got {tensor.datatype[:_SHOWN]}"
        )
    if not tensor.shape or any(side < 1 for side in tensor.shape):
        raise RejectedInput("shape", f"expected sides of at least 1, got shape {tensor.shape}")
    _check_count(tensor.shape[0], settings)
    if tensor.name == "images":
        return _parse_pixels(tensor)
    return [_parse_file(item, index, settings) for index, item in enumerate(_parse_bytes(tensor))]


def _parse_json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RejectedInput(
            "not_json", f"expected JSON, got {len(body)} bytes that are none: {error}"
        ) from error


def _check_count(count: int, settings: ServerSettings) -> None:
    if not 1 <= count <= settings.max_instances:
        reason = "too_many" if count else "empty"
        raise RejectedInput(
            reason, f"expected 1 to {settings.max_instances} instances (max_instances), got {count}"
        )


def _parse_instance(instance: object, index: int, settings: ServerSettings) -> Media:
    where = f"instances[{index}]"
    keys = sorted(instance) if isinstance(instance, dict) else []
    if not isinstance(instance, dict) or keys not in (["image"], ["uri"], ["video"]):
        got = f"keys {keys}" if keys else type(instance).__name__
        raise RejectedInput("malformed", f"expected one of image, video, uri in {where}, got {got[:_SHOWN]}")
    kind = keys[0]
    if kind == "uri":
        return _fetch(instance["uri"], where, settings)
    content = instance[kind]
    text = content.get("b64") if isinstance(content, dict) else None
    if not isinstance(text, str):
        raise RejectedInput("malformed", f'expected {{"b64": "..."}} in {where}.{kind}, got something else')
    return Media("image" if kind == "image" else "video", _decode_base64(text, f"{where}.{kind}", settings))


def _decode_base64(text: str, where: str, settings: ServerSettings) -> bytes:
    _check_size(len(text) // 4 * 3 - 2, where, settings)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RejectedInput("base64", f"expected base64 in {where}, got {error}") from error
    return _check_file(data, where, settings)


def _check_file(data: bytes, where: str, settings: ServerSettings) -> bytes:
    if not data:
        raise RejectedInput("empty", f"expected a file in {where}, got zero bytes")
    _check_size(len(data), where, settings)
    return data


def _check_size(size: int, where: str, settings: ServerSettings) -> None:
    limit = settings.media.max_bytes
    if size > limit:
        raise RejectedInput("too_large", f"expected at most max_bytes={limit} in {where}, got {size}")


def _fetch(uri: object, where: str, settings: ServerSettings) -> Media:
    allowed = settings.allowed_prefixes
    prefix = next((item for item in allowed if isinstance(uri, str) and uri.startswith(item)), None)
    if prefix is None or not isinstance(uri, str) or ".." in uri.split("/"):
        listed = ", ".join(allowed) if allowed else "the allow-list (allowed_prefixes) is empty by default"
        raise RejectedInput("uri", f"expected an allowed uri in {where}, got {str(uri)[:_SHOWN]!r}; {listed}")
    try:
        data = open_store(prefix).get(uri.removeprefix(prefix))
    except DataError as error:
        raise RejectedInput("uri", f"expected a file at {where}.uri: {error}") from error
    data = _check_file(data, f"{where}.uri", settings)
    return Media("video" if is_video(data) else "image", data)


def _parse_pixels(tensor: InferInput) -> np.ndarray:
    data: Any = tensor._raw_data  # the SDK has no public name for bytes that came beside the JSON
    try:
        if data is not None:
            values = np.frombuffer(data, dtype=np.uint8)
        else:
            values = np.asarray(tensor.data)
            if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
                raise RejectedInput(
                    "dtype", f"expected whole numbers from 0 to 255, got {values.dtype} values"
                )
            values = values.astype(np.uint8)
        return values.reshape(tensor.shape)
    except RejectedInput:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise RejectedInput(
            "shape", f"expected data of shape {tensor.shape}, got {str(error)[:_SHOWN]}"
        ) from error


def _parse_bytes(tensor: InferInput) -> list[object]:
    if len(tensor.shape) != 1:
        raise RejectedInput("shape", f"expected image_bytes of shape [N], got {tensor.shape}")
    try:
        items = list(tensor.as_numpy().tolist())
    except (ValueError, TypeError, struct.error) as error:
        message = f"expected {tensor.shape[0]} elements of image_bytes, got {str(error)[:_SHOWN]}"
        raise RejectedInput("shape", message) from error
    return items


def _parse_file(item: object, index: int, settings: ServerSettings) -> Media:
    where = f"image_bytes[{index}]"
    if isinstance(item, str):
        data = _decode_base64(item, where, settings)
    elif isinstance(item, bytes):
        data = _check_file(item, where, settings)
    else:
        raise RejectedInput("malformed", f"expected base64 text in {where}, got {type(item).__name__}")
    return Media("video" if is_video(data) else "image", data)
