"""python tests/s3_process.py PORT: moto's S3 server, one write at a time.

moto checks a condition and then writes; two threads can pass the check together. Real servers do both in one
step, and so does this one.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

_LOCK = threading.Lock()
_APP = DomainDispatcherApplication(create_backend_app)


def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer one request."""
    if environ["REQUEST_METHOD"] not in {"PUT", "POST", "DELETE"}:
        return _APP(environ, start_response)
    with _LOCK:
        return _APP(environ, start_response)


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), serve, threaded=True)
