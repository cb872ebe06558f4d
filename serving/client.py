"""A small typed client of the endpoint, sync and async; it needs neither torch nor KServe."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from dfcore.errors import InvalidInput, ShapeError, WorkFailed
from serving.answers import Answer, ExplainedFace, VideoAnswer

if TYPE_CHECKING:
    import numpy as np

__all__ = ["AsyncClient", "Client"]

_AGAIN = frozenset({408, 429, 502, 503, 504})
_CHUNK = 3 * 2**18  # a multiple of 3: base64 of the chunks is base64 of the whole
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 30.0
_HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class _Call:
    """One request; `body` gives its chunks anew for each try."""

    path: str
    body: Callable[[], Iterator[bytes]]
    size: int
    headers: Mapping[str, str] = field(default_factory=dict)

    def all_headers(self) -> dict[str, str]:
        return {"content-type": "application/json", "content-length": str(self.size), **self.headers}


class _Base:
    def __init__(
        self, model: str = "rampart", *, token: str | None = None, retries: int = 4, timeout: float = 120.0
    ) -> None:
        self._model = model
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._tries = retries + 1
        self._timeout = timeout

    def _predict(self, kind: str, content: bytes | Path) -> _Call:
        return _upload(f"/v1/models/{self._model}:predict", kind, content)

    def _explain(self, kind: str, content: bytes | Path, options: Mapping[str, object]) -> _Call:
        return _upload(f"/v1/models/{self._model}:explain", kind, content, options)

    def _uri(self, uri: str) -> _Call:
        body = json.dumps({"instances": [{"uri": uri}]}).encode()
        return _Call(f"/v1/models/{self._model}:predict", lambda: iter([body]), len(body))

    def _crops(self, crops: np.ndarray) -> _Call:
        if crops.ndim != 4 or crops.shape[3] != 3 or str(crops.dtype) != "uint8":
            raise ShapeError(f"expected crops uint8 (N, S, S, 3), got {crops.dtype} {crops.shape}")
        tensor = {
            "name": "images", "shape": list(crops.shape), "datatype": "UINT8",
            "parameters": {"binary_data_size": crops.nbytes},
        }  # fmt: skip
        head = json.dumps({"inputs": [tensor], "outputs": [{"name": "answer"}]}).encode()
        headers = {_HEADER: str(len(head)), "content-type": "application/octet-stream"}
        raw = crops.tobytes()
        path = f"/v2/models/{self._model}/infer"
        return _Call(path, lambda: iter([head, raw]), len(head) + len(raw), headers)

    def _judge(self, response: httpx.Response | httpx.TransportError, attempt: int) -> float | None:
        """Return the seconds to wait before the next try, or None if this was a success.

        Raises:
            InvalidInput: the server says that the request does not fit.
            WorkFailed: it does not answer, however often it is asked.
        """
        if isinstance(response, httpx.Response):
            if response.status_code == 200:
                return None
            text = f"{response.status_code}: {_problem(response)}"
            if response.status_code not in _AGAIN and response.status_code < 500:
                raise InvalidInput(f"the server refused the request with {text}")
        else:
            text = repr(response)
        if attempt + 1 == self._tries:
            raise WorkFailed(f"expected an answer after {self._tries} tries, got {text}")
        asked = response.headers.get("retry-after", "") if isinstance(response, httpx.Response) else ""
        # jitter, so that clients refused together do not come back together
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * math.pow(2, attempt))
        backoff = random.uniform(0.5, 1.0) * longest  # noqa: S311  # no secret
        return max(backoff, min(_LONGEST_WAIT, float(asked) if asked.isdecimal() else 0.0))


class Client(_Base):
    """Asks an endpoint; what is busy or gone for a moment is asked again.

    Args:
        address: such as http://127.0.0.1:8080.
        model: name on the endpoint's path.
        token: bearer token.
        retries: further tries after a 429, a 5xx or a broken connection.
        timeout: seconds for one try.
    """

    def __init__(self, address: str, model: str = "rampart", **options: Any) -> None:
        super().__init__(model, **options)
        self._http = httpx.Client(base_url=address, timeout=self._timeout, headers=self._headers)

    def __enter__(self) -> Self:
        """Use it in a with block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._http.close()

    def predict_image(self, image: bytes | Path) -> Answer:
        """Answer for an image file; errors as of every method here.

        Raises:
            InvalidInput: the server says that the request does not fit.
            WorkFailed: it does not answer, however often it is asked.
        """
        return Answer.model_validate(self._send(self._predict("image", image))["predictions"][0])

    def predict_video(self, video: bytes | Path) -> VideoAnswer:
        """Answer for a video file; a path is streamed, never held as a whole."""
        return VideoAnswer.model_validate(self._send(self._predict("video", video))["predictions"][0])

    def predict_uri(self, uri: str) -> Answer:
        """Answer for a file that the server may fetch itself."""
        found = self._send(self._uri(uri))["predictions"][0]
        return (VideoAnswer if "frames" in found else Answer).model_validate(found)

    def predict_crops(self, crops: np.ndarray) -> list[Answer]:
        """Answer for crops uint8 (N, S, S, 3) RGB, sent as a binary tensor."""
        return _read_crops(self._send(self._crops(crops)))

    def explain(self, content: bytes | Path, kind: str = "image", **options: object) -> ExplainedFace:
        """Explain an "image" or a "video"; options `target` and `frequency`."""
        found = self._send(self._explain(kind, content, options))
        return ExplainedFace.model_validate(found["explanations"][0])

    def is_ready(self) -> bool:
        """Ask once whether the model is ready."""
        try:
            return self._http.get(f"/v2/models/{self._model}/ready").status_code == 200
        except httpx.TransportError:
            return False

    def _send(self, call: _Call) -> dict[str, Any]:
        attempt = 0
        while True:
            response: httpx.Response | httpx.TransportError
            try:
                response = self._http.post(call.path, content=call.body(), headers=call.all_headers())
            except httpx.TransportError as error:
                response = error
            wait = self._judge(response, attempt)
            if wait is None:
                assert isinstance(response, httpx.Response), "only a response is a success"
                return dict(response.json())
            attempt += 1
            time.sleep(wait)


class AsyncClient(_Base):
    """`Client` for asyncio; see there."""

    def __init__(self, address: str, model: str = "rampart", **options: Any) -> None:
        super().__init__(model, **options)
        self._http = httpx.AsyncClient(base_url=address, timeout=self._timeout, headers=self._headers)

    async def __aenter__(self) -> Self:
        """Use it in an async with block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def predict_image(self, image: bytes | Path) -> Answer:
        """Answer for an image file."""
        return Answer.model_validate((await self._send(self._predict("image", image)))["predictions"][0])

    async def predict_video(self, video: bytes | Path) -> VideoAnswer:
        """Answer for a video file; a path is streamed."""
        return VideoAnswer.model_validate((await self._send(self._predict("video", video)))["predictions"][0])

    async def predict_uri(self, uri: str) -> Answer:
        """Answer for a file that the server may fetch itself."""
        found = (await self._send(self._uri(uri)))["predictions"][0]
        return (VideoAnswer if "frames" in found else Answer).model_validate(found)

    async def predict_crops(self, crops: np.ndarray) -> list[Answer]:
        """Answer for crops uint8 (N, S, S, 3) RGB, sent as a binary tensor."""
        return _read_crops(await self._send(self._crops(crops)))

    async def explain(self, content: bytes | Path, kind: str = "image", **options: object) -> ExplainedFace:
        """Explain an "image" or a "video"; options `target` and `frequency`."""
        found = await self._send(self._explain(kind, content, options))
        return ExplainedFace.model_validate(found["explanations"][0])

    async def is_ready(self) -> bool:
        """Ask once whether the model is ready."""
        try:
            return (await self._http.get(f"/v2/models/{self._model}/ready")).status_code == 200
        except httpx.TransportError:
            return False

    async def _send(self, call: _Call) -> dict[str, Any]:
        attempt = 0
        while True:
            response: httpx.Response | httpx.TransportError
            try:
                response = await self._http.post(
                    call.path, content=_in_threads(call.body()), headers=call.all_headers()
                )
            except httpx.TransportError as error:
                response = error
            wait = self._judge(response, attempt)
            if wait is None:
                assert isinstance(response, httpx.Response), "only a response is a success"
                return dict(response.json())
            attempt += 1
            await asyncio.sleep(wait)


def _upload(
    path: str, kind: str, content: bytes | Path, options: Mapping[str, object] | None = None
) -> _Call:
    parameters = f', "parameters": {json.dumps(dict(options))}' if options else ""
    before, after = f'{{"instances": [{{"{kind}": {{"b64": "'.encode(), f'"}}}}]{parameters}}}'.encode()
    size = content.stat().st_size if isinstance(content, Path) else len(content)

    def chunks() -> Iterator[bytes]:
        yield before
        yield from map(base64.b64encode, _pieces(content))
        yield after

    return _Call(path, chunks, len(before) + (size + 2) // 3 * 4 + len(after))


def _pieces(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, Path):
        with content.open("rb") as stream:
            while piece := stream.read(_CHUNK):
                yield piece
        return
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]


async def _in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def _read_crops(document: Mapping[str, Any]) -> list[Answer]:
    texts: Sequence[str] = document["outputs"][0]["data"]
    return [Answer.model_validate_json(text) for text in texts]


def _problem(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
