"""python kubernetes_mod.py UPSTREAM_GO_MOD VERSION TWIN: a go.mod from which Kubernetes' programs build.

Upstream's whole list of requirements, so that the same versions are chosen, and for each module that upstream
takes from its own staging folder a replacement by the published twin.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

__all__ = ["main"]


def main(upstream: Path, version: str, twin: str) -> str:
    """Return the text of the go.mod."""
    text = upstream.read_text(encoding="utf-8")
    staged = sorted(set(re.findall(r"(k8s\.io/[\w-]+) => \./staging", text)))
    required = []
    for block in re.findall(r"require \((.*?)\)", text, re.DOTALL):
        for line in block.strip().splitlines():
            module, _, rest = line.split("//")[0].strip().partition(" ")
            if module:
                required.append(f"\t{module} {twin if module in staged else rest}")
    found = re.search(r"^go (\S+)", text, re.MULTILINE)
    assert found is not None
    lines = ["module kube-build", "", f"go {found[1]}", *re.findall(r"^godebug .*$", text, re.MULTILINE), ""]
    lines += ["require (", f"\tk8s.io/kubernetes v{version}", *required, ")", ""]
    lines += ["replace (", *(f"\t{module} => {module} {twin}" for module in staged), ")", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
