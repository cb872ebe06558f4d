"""The fan-out through KFP's local runner: scan once, prepare in shards, join."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from dfcore.data import CropStore
from dfcore.data.synthetic import synthesize
from rampart.local_run import child_environment

_SETTINGS = {"image_size": 48, "frames_per_video": 1}
_RUN = """
import json, sys
from kfp import local
from pipelines.train_and_release import prepare_data
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2], raise_on_error=True)
task = prepare_data(**json.loads(sys.argv[1]))
sys.stdout.write(f"\\nSTORE {task.output.path}\\n")  # one write: the log shares the stream
"""


def _run(arguments: dict[str, object], out: Path, *, kill: str | None = None) -> tuple[Path, str]:
    """Run the pipeline; the first step that says `kill` is killed as a lost machine is."""
    command = [sys.executable, "-u", "-c", _RUN, json.dumps(arguments), str(out)]
    log: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=child_environment(out)
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            if kill is not None and kill in line:
                kill = None
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
    text = "".join(log)
    assert process.returncode == 0, text
    found = re.search(r"STORE (\S+)", text)
    assert found, text
    return Path(found[1]), text


@pytest.mark.timeout(600)
def test_shards_are_prepared_apart_and_joined(tmp_path: Path) -> None:
    root = synthesize("celebdf", tmp_path / "celebdf", identities=6, seed=1)
    # in a process of its own, as a person would: what ran in this one may change the last bits of a box
    settings = [part for key, value in _SETTINGS.items() for part in ("--set", f"{key}={value}")]
    command = [
        sys.executable,
        "-m",
        "rampart",
        "data",
        "prepare",
        str(root),
        "--out",
        str(tmp_path / "alone"),
    ]
    command += ["--out", str(tmp_path / "alone"), "--workers", "1", *settings]
    subprocess.run(command, check=True, capture_output=True)
    alone = CropStore.open(tmp_path / "alone")
    arguments: dict[str, object] = {
        "root": str(root), "layout": "auto", "settings": _SETTINGS, "num_shards": 2,
        "cache": str(tmp_path / "cache"),
    }  # fmt: skip
    path, log = _run(arguments, tmp_path / "run", kill="[prepare celebdf 1 of 2]")
    assert "Retrying" in log
    store = CropStore.open(path)
    assert store.digest == alone.digest
    store.verify()

    # With a cache nothing is done twice, whatever the number of shards is.
    again, log = _run({**arguments, "num_shards": 1}, tmp_path / "again")
    assert "[prepare celebdf] reused" in log
    assert CropStore.open(again).digest == alone.digest
