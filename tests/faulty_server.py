"""A server before an S3 server that loses, cuts, alters and refuses, as networks and servers do."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tests.http_server import serve

_SKIPPED = {"connection", "transfer-encoding", "date", "server"}


@dataclass
class Fault:
    """What happens to requests.

    Attributes:
        method: of the requests it happens to.
        kind: "refuse" answers in the server's place; "lose" does the work and hangs up; "cut" sends half the
            body; "alter" changes its last byte.
        times: how often.
        needle: part of the request's path.
        status, code: of a refusal.
    """

    method: str
    kind: Literal["refuse", "lose", "cut", "alter"]
    times: int = 1
    needle: str = ""
    status: int = 503
    code: str = "SlowDown"


@dataclass
class FaultyServer:
    """The running server; append to `faults`, read `requests`."""

    url: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def pick(self, method: str, path: str) -> Fault | None:
        """Return the fault of a request, used up by one."""
        with self.lock:
            self.requests.append(f"{method} {path}")
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.needle in path:
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FaultyServer
    behind: str

    def serve(self) -> None:
        """Answer one request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.state.pick(self.command, self.path)
        kind = fault.kind if fault else None
        if fault and kind == "refuse":
            text = f"<Error><Code>{fault.code}</Code><Message>no</Message></Error>".encode()
            self.answer(fault.status, [("Content-Type", "application/xml")], text)
            return
        back = http.client.HTTPConnection(self.behind, timeout=30)
        back.request(self.command, self.path, body, dict(self.headers))
        answer = back.getresponse()
        data = answer.read()
        back.close()
        if kind == "alter":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if kind == "lose":
            self.close_connection = True
        else:
            self.answer(answer.status, answer.getheaders(), data, cut=kind == "cut")

    def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False) -> None:
        """Send what came back, or half of it."""
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _SKIPPED:
                self.send_header(name, value)
        if "content-length" not in {name.lower() for name, _ in headers}:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve  # noqa: N815  # the base class's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def faulty_server(behind: str, certificate: Path | None = None) -> Iterator[FaultyServer]:
    """Run one in front of `behind`; with a certificate (PEM with its key) it speaks TLS."""
    handler = type("Handler", (_Handler,), {"behind": urlsplit(behind).netloc})
    with serve(handler, certificate) as address:
        state = FaultyServer(address)
        setattr(handler, "state", state)  # noqa: B010  # the class is made before the port is known
        yield state
