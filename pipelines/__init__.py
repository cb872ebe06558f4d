"""Pipelines: wiring only, with compile and run."""

from typing import TYPE_CHECKING, Any

from pipelines.audit_robustness import audit_robustness
from pipelines.train_and_release import train_and_release

if TYPE_CHECKING:
    from pipelines.compile import compile_pipeline
    from pipelines.run import run_pipeline

__all__ = ["audit_robustness", "compile_pipeline", "run_pipeline", "train_and_release"]


def __getattr__(name: str) -> Any:
    # The two modules are also commands (`python -m`), which must not be imported before they run.
    if name == "compile_pipeline":
        from pipelines.compile import compile_pipeline

        return compile_pipeline
    if name == "run_pipeline":
        from pipelines.run import run_pipeline

        return run_pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
