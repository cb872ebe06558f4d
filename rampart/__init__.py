"""The `rampart` command: argument parsing and calls, one file for each command group."""

from rampart.main import app, run

__all__ = ["app", "run"]
