"""Fuzzers from outside: schemathesis on the OpenAPI document, atheris on the decoders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.serving.conftest import Server, b64, encode_png
from tests.serving.hostile import bad_images, bad_videos, odd_images

ROOT = Path(__file__).resolve().parents[2]
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance", "response_headers_conformance",
)  # fmt: skip
SECONDS, RUNS = 20, 4000


def test_schemathesis_finds_nothing_in_the_document(
    server: Server, portrait: np.ndarray, tmp_path: Path
) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", str(ROOT / "docs" / "openapi.json"),
        "--url", str(server.client.base_url), "--checks", ",".join(CHECKS), "--max-examples", "12",
        "--seed", "7", "--phases", "examples,coverage,fuzzing", "--request-timeout", "20",
        "--continue-on-failure", "--warnings", "off",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    assert server.predict({"image": {"b64": b64(encode_png(portrait))}}).status_code == 200
    assert "Traceback" not in server.log.read_text(encoding="utf-8")


def test_atheris_finds_nothing_in_the_decoders(portrait: np.ndarray, clip: bytes, tmp_path: Path) -> None:
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    files = {**odd_images(portrait[64:192:4, 64:192:4]), "clip": clip}
    files |= {
        name: data for name, (data, _) in {**bad_images(portrait[::8, ::8]), **bad_videos(clip)}.items()
    }
    for number, data in enumerate(files.values()):
        (seeds / str(number)).write_bytes(data)
    command = [
        sys.executable,
        "-m",
        "tests.serving.fuzz_decoders",
        str(seeds),
        f"-artifact_prefix={tmp_path}/",
    ]
    command += [
        f"-max_total_time={SECONDS}",
        "-timeout=20",
        "-rss_limit_mb=3000",
        "-seed=7",
        "-max_len=60000",
        f"-runs={RUNS}",  # so that a quick machine does not try what nobody has tried before
    ]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        timeout=SECONDS + 90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "DONE" in done.stderr or "Done" in done.stderr, done.stderr[-500:]
