"""rampart COMMAND …: train, attack, prove and serve deepfake detectors.

Exit codes: 0 done, 1 a check said no, 2 wrong use, 3 the work failed, 130 interrupted.
Each command imports what it needs when it runs, so that `rampart --help` answers at once.
"""

from __future__ import annotations

import errno
import sys

import typer

from dfcore.errors import RampartError
from rampart import (
    attack,
    data,
    demo,
    evaluate,
    gate,
    models,
    monitor,
    pipeline,
    predict,
    registry,
    rollout,
    serve,
    train,
)

__all__ = ["app", "run"]

app = typer.Typer(
    name="rampart",
    help="Train, attack, prove and serve deepfake detectors that keep working when somebody attacks them.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: its tables would cost three times the rest of the start
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("attack")(attack.attack)
app.command("gate")(gate.gate)
app.command("serve")(serve.serve)
app.command("predict")(predict.predict)
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(monitor.app, name="monitor")
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(registry.app, name="registry")
app.add_typer(rollout.app, name="rollout")

_FAILED = 3
_INTERRUPTED = 130


def run() -> None:
    """Parse the command line, run the command, leave with its exit code."""
    sys.exit(_run())


def _run() -> int:
    try:
        app()
    except SystemExit as left:  # Typer shows wrong use itself and turns an interrupt into 130
        code = left.code if isinstance(left.code, int) else 0
        if code == _INTERRUPTED:
            _say("interrupted; run the same command again (train --resume) to go on from what is complete")
        return code
    except RampartError as error:
        _say(f"error: {error}")
        return error.exit_code
    except OSError as error:
        place = error.filename or "the output folder"
        if error.errno == errno.ENOSPC:
            _say(f"error: expected room on the disk of {place}, got none left; free some and run again")
        else:
            _say(f"error: expected to read or write {place}, got: {error.strerror or error}")
        return _FAILED
    return 0


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")
