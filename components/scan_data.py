"""Component: list a data set once, for all machines that prepare it."""

from typing import Optional

from kfp import dsl

from components.images import component


@component
def scan_data(
    root: str,
    num_shards: int,
    manifest: dsl.Output[dsl.Dataset],
    layout: str = "auto",
    cache: Optional[str] = None,  # noqa: UP045  # KFP reads this annotation
) -> list:  # type: ignore[type-arg]  # KFP knows no typed list
    """Scan a data set's folder and share out the work.

    Args:
        root: the data set's folder.
        num_shards: how many machines prepare it.
        manifest: the samples, as Parquet.
        layout: a layout's name, or "auto".
        cache: a folder in which the last scan is found again, so that unchanged files are not read.

    Returns:
        The shards, "1/n" to "n/n".
    """
    from hashlib import sha256
    from pathlib import Path

    from components.progress import counter, say
    from dfcore.data import known_manifest, parse_shard, scan

    shards = [str(parse_shard(f"{number + 1}/{num_shards}")) for number in range(max(1, num_shards))]
    folder, step = Path(root), f"scan {Path(root).name}"
    place = sha256(f"{folder.resolve()} {layout}".encode()).hexdigest()
    last = Path(cache) / "scan" / place if cache else None
    known = known_manifest(last) if last else None
    found = scan(folder, layout, known=known, progress=counter(step, "files"))
    found.write(Path(manifest.path))
    if last:
        found.write(last / "manifest.parquet")
    say(step, f"done: {len(found.samples)} samples of {found.samples[0].dataset}")
    return shards
