"""`rampart data scan`: counts against the published ones, what was skipped, the manifest."""

from __future__ import annotations

import json
import re
from pathlib import Path

from typer.testing import CliRunner, Result

from dfcore.data import Manifest
from rampart import app
from tests.data.trees import ffpp, touch


def _scan(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["data", "scan", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result


def test_one_json_document(tmp_path: Path) -> None:
    root = touch(ffpp(tmp_path / "data"), ["README.md"])
    document = json.loads(_scan(str(root), "--json").stdout)
    assert (document["videos"], document["real"], document["fake"]) == (24, 8, 16)
    assert document["splits"] == {"train": 12, "val": 6, "test": 6}
    count = {"dataset": "ffpp", "what": "c23 FaceSwap", "found": 8, "published": 1000}
    assert count in document["published"]
    assert document["skipped"] == [
        {"path": "README.md", "reason": "no video, image or archive by its suffix"}
    ]


def test_tables_for_people(tmp_path: Path) -> None:
    root = touch(ffpp(tmp_path / "data"), ["README.md"])
    result = _scan(str(root))
    assert "24 samples, 8 real and 16 fake; 1 entries skipped" in result.stdout
    shown = re.sub(r"[│ ]+", " ", result.stderr)
    assert "ffpp FaceSwap c23 fake 4 2 2" in shown
    assert "ffpp c23 FaceSwap 8 1000 differs" in shown
    assert "warning: not the whole published data set" in shown
    assert "no video, image or archive by its suffix 1 README.md" in shown


def test_the_manifest_serves_the_next_scan(tmp_path: Path) -> None:
    root, out = ffpp(tmp_path / "data"), tmp_path / "m.parquet"
    _scan(str(root), "--out", str(out))
    first = Manifest.read(out)
    assert "scan data" not in _scan(str(root), "--out", str(out)).stderr  # nothing was read, so no progress
    assert Manifest.read(out).samples == first.samples
    out.write_text("of another version")
    assert (
        "warning: every file is read, because expected a manifest"
        in _scan(str(root), "--out", str(out)).stderr
    )
    assert Manifest.read(out).samples == first.samples
