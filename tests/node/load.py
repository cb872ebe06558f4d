"""python -m tests.node.load URL REQUEST: ask until standard input ends; then say what came."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from pathlib import Path

import httpx


def main(url: str, request: Path) -> None:
    """Ask with a new connection each time, as many clients would."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    versions: Counter[str] = Counter()
    failures: list[str] = []
    content, kind = request.read_bytes(), {"Content-Type": "application/json"}
    while not ended.is_set():
        try:
            answer = httpx.post(url, content=content, headers=kind, timeout=30)
            answer.raise_for_status()
            versions[answer.json()["predictions"][0]["model"]["version"]] += 1
        except httpx.HTTPError as error:
            failures.append(f"{type(error).__name__}: {error}")
    sys.stdout.write(json.dumps({"versions": versions, "failures": failures}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
