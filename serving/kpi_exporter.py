"""Serve what the registry knows as Prometheus metrics: `rampart monitor export --store s3://…`.

Channels, the evidence of the version that each points at, its audits, and the gate's decisions. Only what a
channel points at is shown, so that the number of series does not grow with the registry. It loads no torch,
checks digests but no signature (serving does that), and shows the last good reading while the store does not
answer.
"""

from __future__ import annotations

import logging
import signal
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from pydantic import Field

from dfcore.config import Config
from dfcore.errors import ConfigError, RampartError
from dfcore.storage import open_store
from serving.kpi_reading import FAMILIES, KpiReader, Limits, Sample

__all__ = ["ExportSettings", "KpiExporter", "run_exporter"]

logger = logging.getLogger(__name__)

_PATIENCE = 5  # readings that may be missed before liveness fails
_CLIENT_SECONDS = 10


class ExportSettings(Config):
    """Where and how often.

    Attributes:
        host: address that is listened on.
        port: of /metrics and /healthz; 0 takes a free one.
        interval_seconds: between two readings of the registry.
        limits: of what one reading takes in.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=9108, ge=0, le=65535)
    interval_seconds: float = Field(default=60.0, ge=1, le=86400)
    limits: Limits = Limits()


class KpiExporter(Collector):
    """The latest reading of a registry, as metrics.

    Args:
        store: address of the registry (path, file:// or s3://).
        settings: where and how often.

    Raises:
        ConfigError: an address that can't be one.
    """

    def __init__(self, store: str, settings: ExportSettings | None = None) -> None:
        self.settings = settings or ExportSettings()
        self._reader = KpiReader(open_store(store), self.settings.limits)
        self._store = store
        self._samples: tuple[Sample, ...] = ()
        self._up = False
        self._seconds = 0.0
        self._last_success: float | None = None
        self._last_try = time.monotonic()
        self._failures: dict[str, int] = {}

    @property
    def alive(self) -> bool:
        """Whether readings still end, well or badly."""
        return time.monotonic() - self._last_try < _PATIENCE * max(self.settings.interval_seconds, 60)

    def refresh(self) -> bool:
        """Read the registry once; whether it answered. What was known stays where it did not."""
        began = time.monotonic()
        try:
            self._samples = self._reader.read()
        except (RampartError, OSError) as error:
            kind = type(error).__name__
            self._failures[kind] = self._failures.get(kind, 0) + 1
            log = logger.error if self._up or self._last_success is None else logger.info
            log("the registry can't be read; showing what was known: %s", error)
            self._up = False
        else:
            if not self._up:
                logger.info("read %d values from %s", len(self._samples), self._store)
            self._up, self._last_success = True, time.time()
        self._last_try = time.monotonic()
        self._seconds = self._last_try - began
        return self._up

    def collect(self) -> Iterator[Metric]:
        """Yield every family, the exporter's own health last."""
        samples = self._samples
        for name, (text, labels) in FAMILIES.items():
            family = GaugeMetricFamily(name, text, labels=labels)
            for sample in samples:
                if sample.family == name:
                    family.add_metric(sample.labels, sample.value)
            yield family
        yield GaugeMetricFamily(
            "rampart_registry_up", "Whether the last reading of the registry succeeded.", value=self._up
        )
        yield GaugeMetricFamily("rampart_registry_read_seconds", "What it took.", value=self._seconds)
        if self._last_success is not None:
            yield GaugeMetricFamily(
                "rampart_registry_read_timestamp_seconds", "When one succeeded.", value=self._last_success
            )
        failures = CounterMetricFamily(
            "rampart_registry_read_failures", "Readings that failed.", labels=("kind",)
        )
        for kind, count in sorted(self._failures.items()):
            failures.add_metric((kind,), count)
        yield failures


class _Handler(BaseHTTPRequestHandler):
    """GET /metrics and GET /healthz."""

    timeout = _CLIENT_SECONDS
    server: _Server

    def do_GET(self) -> None:  # the library's name
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encoder, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, kind, encoder(self.server.registry))
        elif path == "/healthz":
            alive = self.server.exporter.alive
            self._answer(200 if alive else 503, "text/plain", b"ok\n" if alive else b"readings hang\n")
        else:
            self._answer(404, "text/plain", b"expected /metrics or /healthz\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
        """Scrapes are no news."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, exporter: KpiExporter) -> None:
        self.exporter = exporter
        self.registry = CollectorRegistry()
        self.registry.register(exporter)
        ProcessCollector(registry=self.registry)
        super().__init__((exporter.settings.host, exporter.settings.port), _Handler)

    def server_bind(self) -> None:
        # not HTTPServer's, which asks a name server for our own name and may wait for it
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.exporter.settings.host, int(self.server_address[1])


def run_exporter(store: str, settings: ExportSettings) -> None:
    """Serve until SIGTERM or SIGINT. A store that does not answer is a metric, not an end.

    Raises:
        ConfigError: a bad address, or a port that is taken.
    """
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("serving").setLevel(logging.INFO)
    exporter = KpiExporter(store, settings)
    try:
        server = _Server(exporter)
    except OSError as error:
        raise ConfigError(
            f"expected a free port, but {settings.port} can't be used at {settings.host}: {error}; "
            "give another"
        ) from error
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    logger.info("listening on %s:%d", settings.host, server.server_port)
    while not ended.is_set():
        exporter.refresh()
        ended.wait(settings.interval_seconds)
    server.shutdown()
    server.server_close()
