#!/usr/bin/env python3
"""localwebhooks.py PORT CA.crt OBJECTS.yaml WEBHOOKS.yaml < manifests: splits manifests for a local manager.

Webhook configurations are pointed at https://127.0.0.1:PORT with our CA; cert-manager's kinds and the
manager's own Deployment are dropped; everything else goes to OBJECTS.
"""

import base64
import sys
from pathlib import Path

import yaml

_DROPPED = {"Certificate", "Deployment", "Issuer"}


def main(port: str, authority: str, objects: str, webhooks: str) -> None:
    """Read standard input, write both files."""
    bundle = base64.b64encode(Path(authority).read_bytes()).decode()
    kept, hooks = [], []
    for document in yaml.safe_load_all(sys.stdin):
        if not document or document["kind"] in _DROPPED:
            continue
        if not document["kind"].endswith("WebhookConfiguration"):
            kept.append(document)
            continue
        for name in ("annotations", "creationTimestamp"):
            document["metadata"].pop(name, None)
        for hook in document["webhooks"]:
            path = hook["clientConfig"]["service"]["path"]
            hook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": bundle}
        hooks.append(document)
    Path(objects).write_text(yaml.safe_dump_all(kept), encoding="utf-8")
    Path(webhooks).write_text(yaml.safe_dump_all(hooks), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
