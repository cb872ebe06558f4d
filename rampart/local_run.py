"""A pipeline run in a process of its own, its log read line by line into the display of steps."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dfcore import errors
from rampart.steps import Steps

__all__ = ["LogReader", "child_environment", "run_locally", "stop_group"]

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SAID = re.compile(r"^\s*\[([a-z][\w .-]*)\] (.*)$")
_TASK = re.compile(r"Executing task '([^']+)'")
_FINISHED = re.compile(r"Task '([^']+)' finished with status (\w+)")
_RAISED = re.compile(r"^\s*(?:dfcore\.errors\.)?(\w+): (.+)$")
# KFP soon starts a task that it retries again; shards that run beside it may say something in between.
_LINES_TO_RETRY = 8
_TAIL_LINES = 12
_SECONDS_TO_STOP = 10.0


class LogReader:
    """Follow KFP's log: which step runs, what it says, why it failed."""

    def __init__(self, steps: Steps) -> None:
        """Read into a display of steps."""
        self.steps = steps
        self.failed = False
        self.error: errors.RampartError | None = None
        self.tail: list[str] = []
        self._grace = 0  # lines in which a failure may still turn out to be retried
        self._failing: str | None = None
        self._task: str | None = None  # KFP's name, known before the step says its own
        self._step: str | None = None
        self._since: float | None = None  # a step imports for seconds before it says its first word

    def feed(self, line: str) -> None:
        """Take one line of the log."""
        line = _COLOUR.sub("", line).rstrip()
        if not line.strip():
            return
        self.tail = [*self.tail, line][-_TAIL_LINES:]
        task = _TASK.search(line)
        if self._grace and task and task[1] == self._failing:
            self._grace, self.error = 0, None
        elif self._grace:
            self._grace -= 1
            self.failed = not self._grace
        if task:
            self._task, self._step, self._since = task[1], None, time.monotonic()
        elif finished := _FINISHED.search(line):
            self._end(finished[1], finished[2])
        elif said := _SAID.match(line):
            self._say(said[1], said[2])
        elif raised := _RAISED.match(line):
            self._note_error(raised[1], raised[2])

    def failure(self) -> errors.RampartError:
        """Return the error that ended the run."""
        where = self._step or self._task or "the pipeline"
        if self.error is not None:
            return type(self.error)(f"{where}: {self.error}")
        return errors.WorkFailed(f"{where} broke off; its last lines:\n" + "\n".join(self.tail))

    def _end(self, task: str, status: str) -> None:
        if status == "FAILURE":  # the task stays known: `failure` names it
            if self.error is None or isinstance(self.error, errors.WorkFailed):
                self._grace, self._failing = _LINES_TO_RETRY, task
            else:
                self.failed = True  # wrong input stays wrong, however often it is tried
            return
        if self._step is not None:
            self.steps.finish(self._step)
        self._task = self._step = None

    def _say(self, name: str, text: str) -> None:
        if self._step is None:
            self._step = name
            self.steps.start(name, self._since)
        self.steps.say(self._step, text)

    def _note_error(self, kind: str, message: str) -> None:
        known = getattr(errors, kind, None)
        if isinstance(known, type) and issubclass(known, errors.RampartError):
            self.error = known(message)
        elif kind == "OSError" and "No space left" in message:
            self.error = errors.WorkFailed("no space left on the disk; free some and run again")


def run_locally(arguments: Mapping[str, Any], out: Path, steps: Steps) -> dict[str, Any]:
    """Run `train_and_release` with KFP's local runner.

    Args:
        arguments: the pipeline's parameters.
        out: the run folder; the whole log is kept in `run.log`.
        steps: shows each step.

    Returns:
        The pipeline's outputs: parameters by value, artifacts by path.

    Raises:
        RampartError: what the failing step raised.
    """
    out.mkdir(parents=True, exist_ok=True)
    given = out / "arguments.json"
    given.write_text(json.dumps(dict(arguments), indent=2), encoding="utf-8")
    command = [sys.executable, "-u", "-m", "pipelines.run", "--out", str(out), "--arguments", str(given)]
    environment = child_environment(Path(arguments.get("cache") or out))
    reader = LogReader(steps)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        start_new_session=True,  # so that an interrupt ends the steps as well
    )  # fmt: skip
    assert process.stdout is not None
    try:
        with process.stdout, (out / "run.log").open("w", encoding="utf-8") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                reader.feed(line)
                if reader.failed:
                    raise reader.failure()  # KFP would go on with every step that does not depend on it
        code = process.wait()
    finally:
        stop_group(process)
    if code:
        raise reader.failure()
    outputs: dict[str, Any] = json.loads((out / "outputs.json").read_text(encoding="utf-8"))
    return outputs


def child_environment(cache: Path) -> dict[str, str]:
    """Return the environment of a step or a server.

    Args:
        cache: a folder that outlives the run.
    """
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONUNBUFFERED": "1"}
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        # Without kept bytecode every process would compile torch anew, which takes ten seconds.
        environment.setdefault("PYTHONPYCACHEPREFIX", str(cache.resolve() / "bytecode"))
    return environment


def stop_group(process: subprocess.Popen[str]) -> None:
    """End a process that leads its own group, and what it started."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
