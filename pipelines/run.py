"""python -m pipelines.run --out DIR --arguments F.json: one run of a pipeline with KFP's local runner.

The run folder holds `artifacts/` (KFP's pipeline root) and, when the run is complete, `outputs.json`: for
each output of the pipeline its value, or its artifact's path. `--arguments -` reads standard input.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.compile import PIPELINES

__all__ = ["main", "run_pipeline"]


def run_pipeline(arguments: Mapping[str, Any], out: Path, name: str = "train_and_release") -> dict[str, Any]:
    """Run a pipeline step by step.

    Args:
        arguments: the pipeline's parameters.
        out: the run folder.
        name: of the pipeline.

    Returns:
        The pipeline's outputs: parameters by value, artifacts by path.

    Raises:
        ConfigError: a parameter that the pipeline does not have, or a signing key that can't sign.
        RuntimeError: a step failed; its traceback is on standard output.
    """
    from kfp import local

    import pipelines
    from components.writing import write_text
    from dfcore.config import suggest
    from dfcore.errors import ConfigError

    pipeline = getattr(pipelines, name)
    known = pipeline.component_spec.inputs
    for key in arguments:
        if key not in known:
            raise ConfigError(f"unknown pipeline parameter {key!r}{suggest(key, known)}")
    if name == "train_and_release":
        _check_signing_key()
    out.mkdir(parents=True, exist_ok=True)
    (out / "outputs.json").unlink(missing_ok=True)
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str((out / "artifacts").resolve()),
        raise_on_error=True,
    )
    task = pipeline(**arguments)
    outputs = {name: getattr(value, "path", value) for name, value in task.outputs.items()}
    write_text(out / "outputs.json", json.dumps(outputs, indent=2))
    return outputs


def _check_signing_key() -> None:
    """Refuse a key that was given and can't sign now, not after the training."""
    given = os.environ.get("RAMPART_SIGNING_KEY")
    if given:
        from dfcore.release import ensure_key

        ensure_key(Path(given))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.run", description="Run the pipeline on this machine."
    )
    parser.add_argument("--pipeline", choices=PIPELINES, default="train_and_release")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arguments", default="-", help="a JSON file with the pipeline's parameters, or -")
    options = parser.parse_args()
    text = (
        sys.stdin.read() if options.arguments == "-" else Path(options.arguments).read_text(encoding="utf-8")
    )
    # The steps run one after another: each may use every core, and sleeps instead of spinning while it waits.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        run_pipeline(json.loads(text), options.out, options.pipeline)
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
