"""What the REST server answers beside KServe's own probes and metadata, and how it says no."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import exposition
from starlette.exceptions import HTTPException

from serving._kserve import (
    BadRequest,
    InferenceVerb,
    InferResponse,
    ModelNotFound,
    ModelNotReady,
    ServerNotReady,
    UnsupportedProtocol,
)
from serving.admission import Overloaded
from serving.dataplane import StrictDataPlane
from serving.metrics import input_rejected, registry
from serving.protocol import LENGTH_HEADER, RestRequest
from serving.rejection import RefusedInput
from serving.remote import PredictorUnavailable

__all__ = ["add_error_handlers", "add_routes"]

logger = logging.getLogger(__name__)

_SHOWN = 80


def _json(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, dict(headers or {}), media_type="application/json")


def add_routes(app: FastAPI, dataplane: StrictDataPlane) -> None:
    """Add the routes that take a body; they come before KServe's, which decode it on the event loop.

    They are Starlette's, without FastAPI's parsing of arguments: a request has nothing that it could parse.
    """
    router = APIRouter()

    async def predict(request: Request) -> Response:
        return _json(await dataplane.call(request.path_params["name"], await request.body()))

    async def explain(request: Request) -> Response:
        name = request.path_params["name"]
        return _json(await dataplane.call(name, await request.body(), InferenceVerb.EXPLAIN))

    async def infer(request: Request) -> Response:
        body = RestRequest(await request.body(), request.headers.get(LENGTH_HEADER))
        found = await dataplane.call(request.path_params["name"], body)
        assert isinstance(found, InferResponse), "V2 in, V2 out"
        document, size = found.to_rest()
        if size is None:
            return _json(document)
        headers = {LENGTH_HEADER: str(size)}
        return Response(document, 200, headers, media_type="application/octet-stream")

    async def one_version(request: Request) -> Response:
        raise HTTPException(404, "expected no version in the path: a server has the one that is promoted")

    async def metrics(request: Request) -> Response:
        encoder, kind = exposition.choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(registry()), headers={"content-type": kind})

    router.add_route("/v1/models/{name}:predict", predict, methods=["POST"])
    router.add_route("/v1/models/{name}:explain", explain, methods=["POST"])
    router.add_route("/v2/models/{name}/infer", infer, methods=["POST"])
    for path in ("/v2/models/{name}/versions/{version}", "/v2/models/{name}/versions/{version}/{rest:path}"):
        router.add_route(path, one_version, methods=["GET", "POST"])
    router.add_route("/metrics", metrics, methods=["GET"])
    app.include_router(router)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every refusal with one line that says why; no traceback, to the client or to the log."""

    def refuse(status: int, reason: str | None = None) -> Any:
        async def answer(_request: Request, error: Exception) -> Response:
            if reason is not None:
                input_rejected.labels(reason).inc()
            headers = {"Retry-After": "1"} if status == 503 else {}
            return _json({"error": str(error)[:2000]}, status, headers)

        return answer

    async def missing(_request: Request, error: Exception) -> Response:
        input_rejected.labels("unknown_model").inc()
        return _json({"error": str(error)[:_SHOWN]}, 404)

    async def overloaded(_request: Request, error: Exception) -> Response:
        assert isinstance(error, Overloaded)
        return _json({"error": str(error)}, 429, {"Retry-After": str(error.retry_after)})

    async def unfit(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        input_rejected.labels("malformed").inc()
        return _json({"error": "expected a request as in /openapi.json"}, 400)

    async def stated(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        input_rejected.labels("not_found" if error.status_code == 404 else "malformed").inc()
        return _json({"error": str(error.detail)}, error.status_code, error.headers)

    async def internal(request: Request, error: Exception) -> Response:
        logger.error("%s failed", request.scope.get("route", "a request"), exc_info=error)
        return _json({"error": "internal error; the server's log has it"}, 500)

    app.add_exception_handler(BadRequest, refuse(400))
    app.add_exception_handler(RefusedInput, refuse(403))
    app.add_exception_handler(ModelNotFound, missing)
    app.add_exception_handler(ModelNotReady, refuse(503))
    app.add_exception_handler(ServerNotReady, refuse(503))
    app.add_exception_handler(PredictorUnavailable, refuse(503))
    app.add_exception_handler(UnsupportedProtocol, refuse(400, "malformed"))
    app.add_exception_handler(NotImplementedError, refuse(404, "not_found"))
    app.add_exception_handler(Overloaded, overloaded)
    app.add_exception_handler(RequestValidationError, unfit)
    app.add_exception_handler(HTTPException, stated)
    app.add_exception_handler(Exception, internal)
