"""KServe's data plane: readiness apart from liveness, and no model loaded by a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpc import RpcError  # type: ignore[import-untyped]  # it ships no types
from httpx import HTTPError

from serving._kserve import DataPlane, InferenceVerb, ModelNotFound, ModelNotReady

__all__ = ["StrictDataPlane"]


class StrictDataPlane(DataPlane):  # type: ignore[misc]  # KServe ships no types
    """KServe's data plane for one model that loads in the background.

    Attributes:
        draining: the server ends soon: not ready any more, but still answering.
    """

    draining = False

    async def ready(self) -> bool:
        """Say whether requests should be sent here: every model is loaded, and none is drained."""
        models = self.model_registry.get_models()
        if self.draining or not all([await model.healthy() for model in models.values()]):
            return False
        return await self._predictor_ready()

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False) -> bool:
        """Say the same of one model."""
        if self.model_registry.get_model(model_name) is None:
            raise ModelNotFound(model_name)
        if self.draining:
            return False
        model = self.model_registry.get_model(model_name)
        healthy = bool(await model.healthy())
        return healthy and (disable_predictor_health_check or await self._predictor_ready())

    async def _predictor_ready(self) -> bool:
        """Ask a transformer's predictor, where there is one."""
        try:
            return bool(await super().ready())
        except (HTTPError, RpcError):
            return False

    async def get_model(self, name: str) -> Any:
        """Return a loaded model; KServe would load it here, on the event loop.

        Raises:
            ModelNotFound: there is none of this name.
            ModelNotReady: it is not loaded yet.
        """
        model = self.get_model_from_registry(name)
        if not await model.healthy():
            raise ModelNotReady(name)
        return model

    async def call(
        self,
        name: str,
        body: object,
        verb: InferenceVerb = InferenceVerb.PREDICT,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Ask a model."""
        model = await self.get_model(name)
        response, _ = await model(body, headers=headers, verb=verb)
        return response
