"""python -m benchmarks.prepare_again [--quick] --json: preparing a finished data set of 1,000 videos again.

The whole command is timed, from the start of the process to its end: `rampart data prepare ROOT --out STORE`
looks at every file below the root and finds nothing to do. `ours` is the median wall time in seconds; CPU
time stands beside it, because wall time depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.prepare_scale import make_corpus
from dfcore.provenance import versions

VIDEOS, BOUND = 1000, 2.0
SIDE, FRAMES = 160, 4


def _rampart(*arguments: str) -> tuple[float, float]:
    """Run the command and return its wall and CPU seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "rampart", "data", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(videos: int, repetitions: int) -> dict[str, Any]:
    """Prepare once, then measure the repetitions."""
    with tempfile.TemporaryDirectory(prefix="prepare-again-") as folder:
        root, store = make_corpus(Path(folder) / "data", videos, side=SIDE, frames=FRAMES), f"{folder}/store"
        command = (
            "prepare",
            str(root),
            "--out",
            store,
            "--set",
            "image_size=64",
            "--set",
            f"frames_per_video={FRAMES}",
            "--json",
        )
        first, _ = _rampart(*command)
        again = [_rampart(*command) for _ in range(repetitions)]
        header = json.loads(Path(store, "store.json").read_text(encoding="utf-8"))
    walls = [wall for wall, _ in again]
    ours = statistics.median(walls)
    return {
        "name": "prepare_again",
        "ours": round(ours, 3),
        "unit": f"seconds for the whole command over {videos} videos, nothing to do",
        "bound": BOUND,
        "passed": ours < BOUND,
        "cpu": round(statistics.median(cpu for _, cpu in again), 3),
        "first_run": round(first, 1),
        "outcomes": header["outcomes"],
        "repetitions": repetitions,
        "spread": [round(min(walls), 3), round(max(walls), 3)],
        "versions": versions(),
    }


def main() -> None:
    """Parse the command line and write the document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare_again")
    parser.add_argument("--quick", action="store_true", help="100 videos, three repetitions")
    parser.add_argument("--json", action="store_true", help="accepted; the output always is JSON")
    options = parser.parse_args()
    document = run(100, 3) if options.quick else run(VIDEOS, 9)
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
