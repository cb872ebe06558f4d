"""Reading KFP's log: steps, reuse, and the error that ended a run."""

from __future__ import annotations

from dfcore.errors import DataError, WorkFailed
from rampart.local_run import LogReader
from rampart.steps import Steps

_START = "12:00:00.000 - INFO - Executing task \x1b[96m'prepare-faces'\x1b[0m\n"
_END = "12:00:01.000 - INFO - Task \x1b[96m'prepare-faces'\x1b[0m finished with status \x1b[92m{}\x1b[0m\n"


def test_follows_a_step() -> None:
    with Steps() as steps:
        reader = LogReader(steps)
        for line in (_START, "    [prepare ffpp] reused: nothing changed\n", _END.format("SUCCESS")):
            reader.feed(line)
    assert list(steps.seconds) == ["prepare ffpp"]
    assert steps.reused == ["prepare ffpp"]
    assert not reader.failed


def test_raises_what_the_step_raised() -> None:
    with Steps() as steps:
        reader = LogReader(steps)
        for line in (
            _START,
            "    dfcore.errors.DataError: expected a data set, got none\n",
            _END.format("FAILURE"),
        ):
            reader.feed(line)
    failure = reader.failure()
    assert reader.failed
    assert isinstance(failure, DataError)
    assert str(failure) == "prepare-faces: expected a data set, got none"


def test_a_crash_that_is_retried_is_no_failure() -> None:
    with Steps() as steps:
        reader = LogReader(steps)
        for line in (
            _START,
            "    [prepare ffpp] 10 videos\n",
            "    Killed\n",
            _END.format("FAILURE"),
            "other shard\n",
        ):
            reader.feed(line)
        assert not reader.failed
        for line in (_START, "    [prepare ffpp] 10 videos\n", *["more\n"] * 20, _END.format("SUCCESS")):
            reader.feed(line)
    assert not reader.failed
    assert list(steps.seconds) == ["prepare ffpp"]


def test_a_crash_without_a_retry_ends_the_run_soon() -> None:
    with Steps() as steps:
        reader = LogReader(steps)
        for line in (_START, "    Killed\n", _END.format("FAILURE"), *["another step talks\n"] * 9):
            reader.feed(line)
    assert reader.failed
    assert "Killed" in str(reader.failure())


def test_a_full_disk_and_a_crash_are_failed_work() -> None:
    with Steps() as steps:
        full, crash = LogReader(steps), LogReader(steps)
    full.feed("    OSError: [Errno 28] No space left on device: '/x'\n")
    crash.feed("    Killed\n")
    assert isinstance(full.failure(), WorkFailed)
    assert "no space left" in str(full.failure())
    assert "Killed" in str(crash.failure())
