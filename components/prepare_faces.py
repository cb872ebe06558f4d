"""Component: find the faces of one share of a data set."""

from typing import Optional

from kfp import dsl

from components.images import component


@component
def prepare_faces(
    root: str,
    manifest: dsl.Input[dsl.Dataset],
    settings: dict,  # type: ignore[type-arg]  # KFP knows no typed dict
    share: dsl.Output[dsl.Dataset],
    shard: str = "1/1",
    cache: Optional[str] = None,  # noqa: UP045  # KFP reads this annotation
) -> None:
    """Detect faces in every n-th part of the samples, and keep the crops for `join_stores`.

    Args:
        root: the data set's folder.
        manifest: what `scan_data` found there.
        settings: keys of `PreprocessingConfig`; what is left out keeps its default.
        share: this shard's parts of the crop store.
        shard: which share, "k/n".
        cache: a folder in which unchanged work is found again; shards may share it.
    """
    from pathlib import Path

    from components.progress import counter, say
    from components.reuse import code_digest
    from dfcore.data import Manifest, copy_parts, parse_shard, prepare_shard
    from dfcore.preprocessing import PreprocessingConfig
    from dfcore.provenance import digest_json

    part = parse_shard(shard)
    config = PreprocessingConfig.parse(settings, source="preprocessing settings")
    samples = Manifest.read(Path(manifest.path), Path(root))
    step = f"prepare {samples.samples[0].dataset}" + (
        f" {part.number} of {part.total}" if part.total > 1 else ""
    )
    say(step, f"{len(samples.samples)} samples in {root}")
    code = code_digest(("preprocessing", "data"))
    key = digest_json({"manifest": samples.digest, "settings": config.model_dump(mode="json"), "code": code})
    kept = Path(cache) / "prepare" / key if cache else Path(share.path)
    done = prepare_shard(samples, kept, config, part, workers=None, progress=counter(step, "videos"))
    if cache:
        copy_parts(kept, Path(share.path), part)
    text = f"done: {done.new} of {done.parts} parts are new"
    say(step, text if done.new or not cache else "reused: videos, settings and code are unchanged")
