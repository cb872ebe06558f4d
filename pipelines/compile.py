"""python -m pipelines.compile --out train_and_release.yaml: the pipeline as YAML for a KFP server.

Works where torch is not installed: components import the library only when they run.
"""

import argparse
import os
from pathlib import Path

__all__ = ["compile_pipeline", "main"]


def compile_pipeline(out: Path) -> Path:
    """Write the pipeline's intermediate representation; the file appears whole or not at all.

    Args:
        out: a `.yaml` file.

    Returns:
        The file.
    """
    from kfp import compiler

    from pipelines.train_and_release import train_and_release

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.stem}.{os.getpid()}.partial.yaml")
    try:
        compiler.Compiler().compile(train_and_release, str(partial))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return out


def main() -> None:
    """Parse the command line and compile."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.compile", description="Write the pipeline as YAML."
    )
    parser.add_argument("--out", type=Path, default=Path("train_and_release.yaml"))
    compile_pipeline(parser.parse_args().out)


if __name__ == "__main__":
    main()
