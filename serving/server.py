"""Start KServe's model server on a bundle."""

from __future__ import annotations

import logging
import socket
from functools import partial
from pathlib import Path

import torch

from dfcore.errors import ConfigError
from serving.predictor import Predictor
from serving.settings import ServerSettings

__all__ = ["check_port_free", "run_server"]

logger = logging.getLogger(__name__)

_GRACE_SECONDS = 10


def check_port_free(port: int) -> None:
    """Require that nobody listens on a port.

    Raises:
        ConfigError: somebody does, or we may not listen there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104  # where KServe listens
            probe.listen(1)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"expected a free port, but {port} can't be used: {error}; give another"
            ) from error


def run_server(
    model: str | Path,
    *,
    name: str = "rampart",
    http_port: int = 8080,
    public_key: Path | None = None,
    allow_unsigned: bool = False,
    settings: ServerSettings | None = None,
) -> None:
    """Serve a bundle until the process gets SIGTERM or SIGINT.

    Args:
        model: bundle folder, `file://…`, `s3://…` or `registry://NAME@CHANNEL`.
        name: name on the endpoint's path.
        http_port: V1, V2, health and `/metrics`.
        public_key: what the bundle's signature must match.
        allow_unsigned: also serve a training output.
        settings: limits, threads, gRPC.

    Raises:
        ConfigError: a port is taken.
        BundleError: the bundle is altered, incomplete or unsigned.
    """
    settings = settings or ServerSettings()
    for port in (http_port, settings.grpc_port):
        if port is not None:
            check_port_free(port)
    # here, after the cheap checks: KServe takes seconds to import, and `predict` does without it
    from serving._kserve import ModelServer, app
    from serving.dataplane import BodyLimit, StrictDataPlane, answer_validation_errors
    from serving.model import DeepfakeModel

    torch.set_num_threads(settings.threads)
    open_predictor = partial(
        Predictor,
        model,
        name=name,
        public_key=public_key,
        allow_unsigned=allow_unsigned,
        limits=settings.media,
    )
    detector = DeepfakeModel(name, open_predictor, settings)
    detector.load()
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    answer_validation_errors(app)
    server = ModelServer(
        http_port=http_port,
        grpc_port=settings.grpc_port or 0,
        enable_grpc=settings.grpc_port is not None,
        workers=1,  # each worker would count its own metrics; scale replicas instead
        grace_period=_GRACE_SECONDS,
    )
    server.dataplane = StrictDataPlane(model_registry=server.registered_models)
    logger.info("serving %s as %s on port %d", detector.predictor.identity.version, name, http_port)
    server.start([detector])
