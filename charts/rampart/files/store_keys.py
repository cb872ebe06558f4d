"""python store_keys.py NAMESPACE ROLE=SECRET ...: keys from /keys/ROLE.env into Secrets of the namespace.

A role without a file kept its keys: then its Secret must be there already.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

KEYS = Path(os.environ.get("RAMPART_KEYS", "/keys"))
ACCOUNT = Path(os.environ.get("RAMPART_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
SECONDS = 30


def main(arguments: list[str]) -> int:
    """Store every role's keys; returns the exit code."""
    namespace, *pairs = arguments
    for role, _, secret in (pair.partition("=") for pair in pairs):
        file = KEYS / f"{role}.env"
        if file.is_file():
            store(namespace, secret, read_env(file))
            sys.stdout.write(f"{role}: keys are in the Secret {secret}\n")
        elif call("GET", f"{namespace}/secrets/{secret}") == 404:
            sys.stderr.write(
                f"expected the Secret {secret} of the {role}, who kept the keys that were given out before, "
                "found none: set registryInit.rotate=true once to give new ones\n"
            )
            return 1
    return 0


def read_env(file: Path) -> dict[str, str]:
    """Return the variables of a file of KEY=VALUE lines."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return {key: value for key, _, value in (line.partition("=") for line in lines) if key}


def store(namespace: str, name: str, values: dict[str, str]) -> None:
    """Create a Secret, or replace the values of an existing one."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    labels = {"app.kubernetes.io/part-of": "rampart", "app.kubernetes.io/managed-by": "registry-init"}
    metadata = {"name": name, "labels": labels}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
    if call("POST", f"{namespace}/secrets", secret, "application/json") == 409:
        call("PATCH", f"{namespace}/secrets/{name}", {"data": data}, "application/merge-patch+json")


def call(method: str, path: str, body: object = None, content: str = "application/json") -> int:
    """Ask the API server; returns the status. Any but a success, 404 and 409 ends the program."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    token = (ACCOUNT / "token").read_text(encoding="utf-8").strip()
    request = urllib.request.Request(
        f"https://{host}:{port}/api/v1/namespaces/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": content},
        method=method,
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=SECONDS, context=context) as answer:  # noqa: S310  # the cluster's own address
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (404, 409):
                return error.code
            said = json.loads(error.read() or b"{}").get("message", "")
        raise SystemExit(f"expected {method} {path} to be allowed, got HTTP {error.code}: {said}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
