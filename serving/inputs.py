"""What a request asks for: V1 instances and V2 tensors, checked before anything is computed."""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any

import numpy as np
import orjson

from dfcore.preprocessing import is_video
from serving._kserve import InferInput, InferRequest
from serving.fetching import fetch_allowed
from serving.media import Media, Work
from serving.rejection import RejectedInput
from serving.settings import ServerSettings

__all__ = ["parse_instances", "parse_json", "parse_tensor"]

_SHOWN = 80


def parse_instances(payload: object, settings: ServerSettings, limit: int | None = None) -> Work:
    """Read `{"instances": [{"image": {"b64": …}} | {"video": {"b64": …}} | {"uri": …}]}`.

    Or `{"instances": [{"crop": rows of pixels}]}`, all of them crops: the slow way in for what has no V2.

    Args:
        payload: the document, or its bytes.
        settings: limits.
        limit: of instances; by default `max_instances`.

    Raises:
        RejectedInput: it is no such document, or beyond a limit.
    """
    if isinstance(payload, bytes):
        payload = parse_json(payload)
    if not isinstance(payload, dict) or not isinstance(payload.get("instances"), list):
        got = f"keys {sorted(payload)}" if isinstance(payload, dict) else type(payload).__name__
        raise RejectedInput("malformed", f'expected {{"instances": [...]}}, got {got[:_SHOWN]}')
    instances = payload["instances"]
    _check_count(len(instances), limit or settings.max_instances)
    if any(isinstance(item, dict) and "crop" in item for item in instances):
        return _parse_crops(instances)
    return [_parse_instance(instance, index, settings) for index, instance in enumerate(instances)]


def parse_tensor(request: InferRequest, settings: ServerSettings) -> Work:
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
        raise RejectedInput("shape", f"expected sides of at least 1, got shape {str(tensor.shape)[:_SHOWN]}")
    _check_count(tensor.shape[0], settings.max_instances)
    if tensor.name == "images":
        return _parse_pixels(tensor)
    return [_parse_file(item, index, settings) for index, item in enumerate(_parse_bytes(tensor))]


def parse_json(body: bytes) -> object:
    """Return a JSON document.

    Raises:
        RejectedInput: it is none; NaN and infinity are none either.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RejectedInput(
            "not_json", f"expected JSON, got {len(body)} bytes that are none: {error}"
        ) from error


def _check_count(count: int, limit: int) -> None:
    if not 1 <= count <= limit:
        reason = "too_many" if count else "empty"
        raise RejectedInput(reason, f"expected 1 to {limit} instances (max_instances), got {count}")


def _parse_crops(instances: list[Any]) -> np.ndarray:
    if not all(isinstance(item, dict) and list(item) == ["crop"] for item in instances):
        raise RejectedInput("malformed", "expected crops only, or none, in one request, got a mixture")
    return _whole_numbers([item["crop"] for item in instances], "crop")


def _whole_numbers(values: object, where: str) -> np.ndarray:
    try:
        # objects first: NumPy would pad every value to the longest text among them
        array = np.array(values, dtype=np.object_)
    except ValueError as error:
        raise RejectedInput("shape", f"expected rows of equal length in {where}, got others") from error
    kinds = {type(value) for value in array.ravel()}
    if list in kinds:
        raise RejectedInput("shape", f"expected rows of equal length in {where}, got others")
    if kinds != {int} or array.min() < 0 or array.max() > 255:
        got = ", ".join(sorted(kind.__name__ for kind in kinds)) or "none"
        raise RejectedInput("dtype", f"expected whole numbers from 0 to 255 in {where}, got {got} values")
    return array.astype(np.uint8)


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
    data = fetch_allowed(uri, where, settings.allowed_prefixes, settings.media.max_bytes)
    data = _check_file(data, f"{where}.uri", settings)
    return Media("video" if is_video(data) else "image", data)


def _parse_pixels(tensor: InferInput) -> np.ndarray:
    data: Any = tensor._raw_data  # the SDK has no public name for bytes that came beside the JSON
    if data is not None:
        values = np.frombuffer(data, dtype=np.uint8)
    else:
        values = _whole_numbers(tensor.data, "images")
    try:
        return values.reshape(tensor.shape)
    except (ValueError, OverflowError) as error:
        raise RejectedInput(
            "shape", f"expected data of shape {str(tensor.shape)[:_SHOWN]}, got {values.size} values"
        ) from error


def _parse_bytes(tensor: InferInput) -> list[object]:
    count = tensor.shape[0]
    if len(tensor.shape) != 1:
        raise RejectedInput("shape", f"expected image_bytes of shape [N], got {str(tensor.shape)[:_SHOWN]}")
    items = list(tensor.data or ()) if tensor._raw_data is None else _split(tensor._raw_data, count)
    if len(items) != count:
        raise RejectedInput("shape", f"expected {count} elements of image_bytes, got {len(items)}")
    return items


def _split(raw: bytes, count: int) -> list[object]:
    """Cut length-prefixed elements apart; one more than stated is enough to refuse them."""
    items: list[object] = []
    start = 0
    while start < len(raw) and len(items) <= count:
        if start + 4 > len(raw):
            break
        (size,) = struct.unpack_from("<I", raw, start)
        if start + 4 + size > len(raw):
            raise RejectedInput(
                "shape", f"expected {count} elements of image_bytes, got one of {size} bytes cut off"
            )
        items.append(raw[start + 4 : start + 4 + size])
        start += 4 + size
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
