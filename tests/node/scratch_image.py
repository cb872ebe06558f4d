"""python3 tests/node/scratch_image.py TAG ARCHIVE /PATH=FILE ... --entrypoint /PATH: an image of programs.

Written as `docker save` writes one, which `ctr images import` reads. Static programs such as pause and MinIO
need no base and no builder.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tarfile
from pathlib import Path


def _member(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def write_image(tag: str, out: Path, programs: dict[str, Path], entrypoint: str) -> None:
    """Write an archive of one image with one layer, which runs as user 65532.

    Args:
        tag: the image's name.
        out: a new file.
        programs: path in the image -> static program.
        entrypoint: one of the paths.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as layer:
        for path, file in programs.items():
            _member(layer, path.lstrip("/"), file.read_bytes(), 0o755)
    layer_digest = hashlib.sha256(stream.getvalue()).hexdigest()
    config = json.dumps({
        "architecture": "amd64", "os": "linux",
        "config": {"User": "65532:65532", "Entrypoint": [entrypoint]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
    }).encode()  # fmt: skip
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]
    with tarfile.open(out, "w") as archive:
        _member(archive, name, config)
        _member(archive, "layer.tar", stream.getvalue())
        _member(archive, "manifest.json", json.dumps(manifest).encode())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tag")
    parser.add_argument("archive", type=Path)
    parser.add_argument("programs", nargs="+")
    parser.add_argument("--entrypoint", required=True)
    given = parser.parse_args()
    pairs = (text.partition("=") for text in given.programs)
    write_image(given.tag, given.archive, {path: Path(file) for path, _, file in pairs}, given.entrypoint)


if __name__ == "__main__":
    main()
