"""A small HTTP server that speaks what is used of the KFP v2beta1 API: it stands for a cloud."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.http_server import serve

__all__ = ["KfpServer", "serve_kfp"]

_LOGIN = '<html><form method="post" action="/dex/auth/local?state=x"><input name="password"/></form></html>'


class KfpServer:
    """What the server knows and how it behaves.

    Attributes:
        token: that requests must carry, or None.
        dex: name and password, or None; then a cookie is asked for.
        refuse: a status that every API request gets, or None.
        away: so many requests get a 503 first.
        states: of a run, one for each look; the last stays.
        tasks: of a run.
    """

    def __init__(self) -> None:
        self.token: str | None = None
        self.dex: tuple[str, str] | None = None
        self.refuse: int | None = None
        self.away = 0
        self.states = ["SUCCEEDED"]
        self.tasks: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.recurring: list[dict[str, Any]] = []
        self.experiments: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.address = ""

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        """Return status and document (or text) of an API request."""
        self.asked.append(f"{method} {path}")
        if self.away:
            self.away -= 1
            return 503, {"error": "no healthy upstream"}
        if self.refuse is not None:
            return self.refuse, {"error_message": "User 'x' is not authorized", "code": 7}
        parts = path.strip("/").split("/")
        if parts[:2] == ["apis", "v1alpha1"]:
            return 200, f"log of {parts[-2]}\n"
        kind, rest = parts[2], parts[3:]
        if kind == "experiments":
            return self._experiments(method, query, body)
        if kind == "runs" and method == "POST":
            run = {"run_id": f"run-{len(self.runs)}", **body}
            self.runs.append(run)
            return 200, run
        if kind == "recurringruns" and method == "POST":
            self.recurring.append({"recurring_run_id": f"recurring-{len(self.recurring)}", **body})
            return 200, self.recurring[-1]
        found = [run for run in self.runs if run["run_id"] == rest[0]]
        if not found:
            return 404, {"error_message": f"run {rest[0]} not found"}
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return 200, {**found[0], "state": state, "run_details": {"task_details": self.tasks}}

    def _experiments(self, method: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        if method == "POST":
            self.experiments.append({"experiment_id": f"experiment-{len(self.experiments)}", **body})
            return 200, self.experiments[-1]
        (wanted,) = json.loads(query["filter"][0])["predicates"]
        found = [item for item in self.experiments if item["display_name"] == wanted["stringValue"]]
        return 200, {"experiments": found} if found else {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: KfpServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def _handle(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts, state = urlsplit(self.path), self.state
        if parts.path.startswith("/dex/"):
            self._dex(method, parse_qs(body.decode()))
        elif state.dex is not None and "session=ours" not in self.headers.get("Cookie", ""):
            self._send(302, b"", {"Location": "/dex/auth/local?state=x"})
        elif state.token is not None and self.headers.get("Authorization") != f"Bearer {state.token}":
            self._send(401, b'{"error_message": "no valid token"}')
        elif not parts.path.startswith("/apis/"):
            self._send(200, b"<html>the user interface</html>", {"Content-Type": "text/html"})
        else:
            status, found = state.answer(
                method, parts.path, parse_qs(parts.query), json.loads(body or b"null")
            )
            self._send(status, found.encode() if isinstance(found, str) else json.dumps(found).encode())

    def _dex(self, method: str, form: dict[str, list[str]]) -> None:
        given = tuple(form.get(key, [""])[0] for key in ("login", "password"))
        if method == "POST" and given == self.state.dex:
            self._send(303, b"", {"Location": "/", "Set-Cookie": "session=ours; Path=/"})
        else:
            self._send(200, _LOGIN.encode(), {"Content-Type": "text/html"})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serve_kfp() -> Iterator[KfpServer]:
    """Serve on a free port of the loopback interface."""
    state = KfpServer()
    with serve(type("Handler", (_Handler,), {"state": state})) as state.address:
        yield state
