"""Start KServe's model server on a bundle."""

from __future__ import annotations

import logging
import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dfcore.errors import ConfigError
from serving.batching import MicroBatcher
from serving.engine import OnnxDetector
from serving.opening import open_bundle
from serving.predictor import Predictor
from serving.priority import at_low_priority
from serving.scoring import LocalScorer, Scorer
from serving.settings import ServerSettings
from serving.supervisor import SOCKET, supervise

__all__ = ["check_port_free", "run_server"]

logger = logging.getLogger(__name__)

_WARM_UP = (1, 2, 8)


def check_port_free(port: int, host: str = "0.0.0.0") -> None:  # noqa: S104  # all that a host may be
    """Require that nobody listens on a port.

    Raises:
        ConfigError: somebody does, or we may not listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"expected a free port, but {port} can't be used at {host}: {error}; give another"
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
    """Serve a bundle until the process gets SIGTERM or SIGINT, then finish what is under way.

    It listens at once: liveness holds while the bundle loads, readiness follows when it is warm.

    Args:
        model: bundle folder, `file://…`, `s3://…` or `registry://NAME@CHANNEL`.
        name: name on the endpoint's path.
        http_port: V1, V2, health and `/metrics`.
        public_key: what the bundle's signature must match.
        allow_unsigned: also serve a training output.
        settings: limits, threads, gRPC, role.

    Raises:
        ConfigError: a port is taken, a setting does not fit, the tokens can't be read.
        BundleError: the bundle is altered, incomplete or unsigned.
    """
    settings = settings or ServerSettings()
    logging.basicConfig(format="%(asctime)s %(process)d %(name)s %(levelname)s %(message)s")
    logging.getLogger("serving").setLevel(logging.INFO)
    shared = os.environ.get(SOCKET)  # a worker shares its supervisor's
    if shared is None:
        for port in (http_port, settings.grpc_port):
            if port is not None:
                check_port_free(port, settings.host)
    if settings.workers > 1 and shared is None:
        supervise(_worker_command(model, name, http_port, public_key, allow_unsigned), http_port, settings)
        return
    # here, after the cheap checks: KServe takes seconds to import, and `predict` does without it
    from serving.lifecycle import RampartServer
    from serving.model import DeepfakeModel

    trust: dict[str, Any] = {"name": name, "public_key": public_key, "allow_unsigned": allow_unsigned}
    if settings.role == "transformer":
        from serving.remote import RemoteScorer

        opening = partial(_open_transformer, model, trust, settings, RemoteScorer(name, settings))
    else:
        opening = partial(_open_predictor, model, trust, settings)
    served = DeepfakeModel(name, opening, settings)
    RampartServer(served, str(model), http_port, settings, None if shared is None else int(shared)).run()


def _worker_command(
    model: str | Path, name: str, http_port: int, public_key: Path | None, allow_unsigned: bool
) -> list[str]:
    command = [sys.executable, "-m", "serving", "--model", str(model), "--name", name]
    command += ["--http-port", str(http_port)]
    command += ["--public-key", str(public_key)] if public_key else []
    return command + (["--allow-unsigned"] if allow_unsigned else [])


def _open_predictor(
    model: str | Path, trust: dict[str, Any], settings: ServerSettings, *, beside: bool
) -> Predictor:
    def load() -> Predictor:
        torch.set_num_threads(settings.threads)  # of this thread
        return Predictor(model, engine=settings.engine, **trust)

    # the batcher's thread and the warm-up are what requests will wait for
    predictor = at_low_priority(load) if beside else load()
    scorer = predictor.scorer
    # ONNX Runtime computes the crops of several requests side by side; waiting for company costs it a tenth
    if not (isinstance(scorer, LocalScorer) and isinstance(scorer.network, OnnxDetector)):
        predictor.scorer = MicroBatcher(scorer, settings.batch, settings.deadline_seconds, settings.threads)
    return _limited(predictor, settings, tuple(n for n in _WARM_UP if n <= settings.batch.max_crops))


def _open_transformer(
    model: str | Path, trust: dict[str, Any], settings: ServerSettings, scorer: Scorer, *, beside: bool
) -> Predictor:
    open_it = partial(open_bundle, model, **trust)
    bundle = at_low_priority(open_it) if beside else open_it()
    return _limited(Predictor.with_scorer(bundle, scorer), settings, ())


def _limited(predictor: Predictor, settings: ServerSettings, warm_up: tuple[int, ...]) -> Predictor:
    predictor.limits = settings.media
    predictor.max_faces = settings.max_faces
    predictor.warm_up(warm_up)
    return predictor
