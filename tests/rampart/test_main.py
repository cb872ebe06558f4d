"""The command line: fast, lazy, with the promised exit codes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from dfcore import errors
from rampart import main

_LOADED = """
import sys
import rampart.main
heavy = {"torch", "kfp", "kserve", "pydantic", "cv2", "numpy", "yaml", "rich.progress"}
print(sorted(heavy & set(sys.modules)))
"""


def _rampart(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rampart", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_loads_nothing_heavy() -> None:
    found = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert "registry" in _rampart("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense"], 2, "No such command"),
        (["gate"], 2, "Missing option"),
        (
            ["train", "--recipe", "demo_basline", "--data", "x", "--out", "y"],
            2,
            "did you mean 'demo_baseline'",
        ),
        (["data", "scan", "/nonexistent"], 2, "/nonexistent"),
        (["gate", "--evidence", "/nonexistent", "--policy", "demo"], 1, ""),
        (["pipeline", "compile", "--out", "/proc/none/x.yaml"], 3, "/proc/none"),
    ],
)
def test_exit_codes(arguments: list[str], code: int, message: str) -> None:
    found = _rampart(*arguments)
    assert (found.returncode, message in found.stderr) == (code, True), found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (errors.DataError("expected a data set, got none"), 2),
        (errors.BundleError("altered"), 1),
        (errors.WorkFailed("broke off"), 3),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "No space left on device", "/full/file"), 3),
        (PermissionError(errno.EACCES, "Permission denied", "/locked"), 3),
    ],
)
def test_errors_become_exit_codes(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("dfcore.recipes.get_recipe", fails)
    monkeypatch.setattr(sys, "argv", ["rampart", "models", "list"])
    with pytest.raises(SystemExit) as left:
        main.run()
    assert left.value.code == code
    assert capsys.readouterr().err.strip()


def test_a_trained_detector_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "detector.json").write_text("{}")
    found = _rampart("train", "--recipe", "demo_baseline", "--data", "x", "--out", str(tmp_path))
    assert found.returncode == 2
    assert "--resume" in found.stderr
    assert (tmp_path / "detector.json").read_text() == "{}"


def test_json_is_one_document() -> None:
    found = _rampart("models", "list", "--json")
    recipes = {row["recipe"] for row in json.loads(found.stdout)}
    assert {"demo_baseline", "demo_robust"} <= recipes


def test_interrupt_leaves_no_process_and_no_half_corpus(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    process = subprocess.Popen(
        [sys.executable, "-m", "rampart", "demo", "--out", str(out), "--identities", "24"],
        stderr=subprocess.PIPE, text=True,
        # a background job of a shell, as CI may be one, inherits an interrupt that is ignored
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    corpora = out / "corpora"
    deadline = time.monotonic() + 60
    while not (corpora.is_dir() and any(corpora.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert not [path for path in corpora.iterdir() if not path.name.startswith(".")]
    assert not (out / "summary.json").exists()
