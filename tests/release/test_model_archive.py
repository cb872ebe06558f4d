"""TorchServe's archive: the layout of its own archiver, our files, no code."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import yaml

FILES = ["detector.json", "detector.onnx", "golden.safetensors", "reference.json", "weights.safetensors"]


def test_it_holds_the_bundle_s_files_and_no_code(bundle: Path) -> None:
    with zipfile.ZipFile(bundle / "detector.mar") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [*FILES, "model-config.yaml", "MAR-INF/MANIFEST.json"]
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert not entry.flag_bits & 8  # Java's stream reader needs sizes in front of stored entries
        for name in FILES:
            assert archive.read(name) == (bundle / name).read_bytes()
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        assert yaml.safe_load(archive.read("model-config.yaml"))["maxWorkers"] == 1
    assert manifest["model"]["handler"] == "serving.torchserve.handler"
    assert manifest["createdOn"] == json.loads((bundle / "decision.json").read_bytes())["created"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the archiver leaves a file open when imported
def test_the_manifest_is_the_archiver_s(bundle: Path) -> None:
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_packaging_utils import ModelExportUtils

    config = ModelArchiverConfig(
        model_name="detector", version="1.0", handler="handler.py", config_file="model-config.yaml",
        export_path=".", runtime="python",
    )  # fmt: skip
    theirs = json.loads(ModelExportUtils.generate_manifest_json(config))
    with zipfile.ZipFile(bundle / "detector.mar") as archive:
        ours = json.loads(archive.read("MAR-INF/MANIFEST.json"))
    assert ours.keys() == theirs.keys()
    assert ours["model"] == {**theirs["model"], "handler": "serving.torchserve.handler"}
    assert (ours["archiverVersion"], ours["runtime"]) == (theirs["archiverVersion"], theirs["runtime"])
