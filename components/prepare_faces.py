"""Component: find the faces of a data set and keep them as a crop store."""

from typing import Optional

from kfp import dsl

from components.images import component


@component
def prepare_faces(
    root: str,
    settings: dict,  # type: ignore[type-arg]  # KFP knows no typed dict
    store: dsl.Output[dsl.Dataset],
    layout: str = "auto",
    cache: Optional[str] = None,  # noqa: UP045  # KFP reads this annotation
) -> None:
    """Scan a data set's folder, detect faces with MTCNN, write a crop store.

    Args:
        root: the data set's folder.
        settings: keys of `PreprocessingConfig`; what is left out keeps its default.
        store: the crop store.
        layout: the folder's layout ("ffpp", "celebdf", "folder"), or "auto".
        cache: a folder in which unchanged work is found again.
    """
    from pathlib import Path

    from components.progress import counter, say
    from components.reuse import code_digest, link_tree
    from dfcore.data import prepare, scan
    from dfcore.preprocessing import PreprocessingConfig
    from dfcore.provenance import digest_json

    config = PreprocessingConfig.parse(settings, source="preprocessing settings")
    manifest = scan(Path(root), layout)
    step = f"prepare {manifest.samples[0].dataset}"
    say(step, f"{len(manifest.samples)} videos in {root}")
    code = code_digest(("preprocessing", "data"))
    key = digest_json({"manifest": manifest.digest, "settings": config.model_dump(mode="json"), "code": code})
    kept = Path(cache) / "prepare" / key if cache else Path(store.path)
    done = kept.with_name(f"{kept.name}.done")
    if done.exists():
        say(step, "reused: videos, settings and code are unchanged")
    prepared = prepare(manifest, kept, config, progress=counter(step, "videos"))
    if cache:
        done.touch()
        link_tree(kept, Path(store.path))
    store.metadata["digest"] = prepared.digest
    say(step, f"done: {prepared.index.num_rows} faces")
