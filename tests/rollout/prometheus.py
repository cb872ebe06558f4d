"""What a rollout asks of Prometheus: a stand-in for its query API with one answer for each query."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.http_server import serve

__all__ = ["Series", "healthy", "serve_prometheus"]

Series = list[tuple[dict[str, str], float]]
_EDGES = ("0.25", "0.5", "0.75", "1.0", "+Inf")


def healthy(query: str) -> Series:
    """Answer as two equally good versions would."""
    if "fake_score_bucket" in query:
        counts = (40.0, 50.0, 60.0, 100.0, 100.0)
        return [({"le": edge}, count) for edge, count in zip(_EDGES, counts, strict=True)]
    if "histogram_quantile" in query:
        return [({}, 0.04)]
    if "rejected" in query or "flags" in query or "error" in query:
        return []
    return [({}, 1000.0)]


class _Handler(BaseHTTPRequestHandler):
    answer: Callable[[str], Series | int]
    token: str | None

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)["query"][0]
        if self.token is not None and self.headers.get("Authorization") != f"Bearer {self.token}":
            found: Series | int = 401
        else:
            found = type(self).answer(query)
        status = found if isinstance(found, int) else 200
        series = [] if isinstance(found, int) else found
        result = [{"metric": labels, "value": [0, str(value)]} for labels, value in series]
        data = json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serve_prometheus(
    answer: Callable[[str], Series | int] = healthy, token: str | None = None
) -> Iterator[str]:
    """Serve on a free port of the loopback interface; yields the address."""
    with serve(type("Handler", (_Handler,), {"answer": staticmethod(answer), "token": token})) as address:
        yield address
