"""The bundle as a TorchServe model archive: its own files, a manifest, and no code.

A `.mar` is a zip with MAR-INF/MANIFEST.json. TorchServe's archiver stamps the hour into each, copies a Python
file that would be run, and is no longer maintained; written here, the same bundle gives the same bytes. The
manifest names a handler that the serving image has installed, which reads safetensors.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

from dfcore.models.bundle import CARD
from dfcore.models.card import WEIGHTS_FILE
from dfcore.models.export import ONNX_FILE
from dfcore.models.golden import GOLDEN_FILE

__all__ = ["MODEL_ARCHIVE", "write_model_archive"]

MODEL_ARCHIVE = "detector.mar"
_PARTS = (CARD, ONNX_FILE, GOLDEN_FILE, "reference.json", WEIGHTS_FILE)
_HANDLER = "serving.torchserve.handler"  # a name only: the library knows no server
_CONFIG = "model-config.yaml"
_LAYOUT_VERSION = "0.12.0"  # of the archiver whose layout this is
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest date that a zip can hold
_WORKER = """\
minWorkers: 1
maxWorkers: 1
batchSize: 1
responseTimeout: 120
startupTimeout: 300
"""


def write_model_archive(path: Path, folder: Path, created: str) -> None:
    """Write the archive of a bundle.

    Args:
        path: the archive.
        folder: the bundle; of its parts those go along that scoring needs.
        created: date for the manifest, ISO 8601.
    """
    manifest = {
        "createdOn": created,
        "runtime": "python",
        "model": {
            "modelName": "detector", "modelVersion": "1.0", "handler": _HANDLER, "configFile": _CONFIG,
        },
        "archiverVersion": _LAYOUT_VERSION,
    }  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        for name in _PARTS:
            if (folder / name).is_file():
                with (folder / name).open("rb") as source, archive.open(_entry(name), "w") as target:
                    shutil.copyfileobj(source, target)
        archive.writestr(_entry(_CONFIG), _WORKER)
        archive.writestr(_entry("MAR-INF/MANIFEST.json"), json.dumps(manifest, indent=2))


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = 3  # Unix, wherever it is built
    entry.external_attr = 0o100644 << 16
    return entry
