"""An HTTP server in a thread of the test, for what stands for somebody else's service."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["serve"]


@contextmanager
def serve(
    handler: type[BaseHTTPRequestHandler], certificate: Path | None = None, key: Path | None = None
) -> Iterator[str]:
    """Serve on a free port of the loopback interface; yields the address.

    Args:
        handler: answers.
        certificate: PEM file with which it speaks TLS.
        key: of the certificate; None where it is in the same file.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
