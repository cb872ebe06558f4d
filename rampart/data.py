"""rampart data synthesize | scan | prepare | verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rampart.output import Json, Set, emit, progress_bar

if TYPE_CHECKING:
    from dfcore.data import Manifest

app = typer.Typer(help="Data sets and crop stores.", no_args_is_help=True)

Root = Annotated[Path, typer.Argument(help="The data set's folder.")]
Layout = Annotated[str, typer.Option(help="ffpp, celebdf, folder, or auto.")]


@app.command()
def synthesize(
    layout: Annotated[str, typer.Option(help="ffpp or celebdf.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    identities: Annotated[int, typer.Option(help="How many people; even.")] = 48,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pixels.")] = 0,
    as_json: Json = False,
) -> None:
    """Render a corpus of real and manipulated face videos."""
    from dfcore.data.synthetic import synthesize

    with progress_bar(f"synthesize {layout}") as progress:
        synthesize(layout, out, identities=identities, seed=seed, progress=progress)
    emit(
        {"corpus": str(out), "layout": layout, "identities": identities, "seed": seed},
        as_json,
        f"wrote {out}",
    )


@app.command()
def scan(
    root: Root,
    layout: Layout = "auto",
    out: Annotated[Path | None, typer.Option(help="Also write the manifest as Parquet.")] = None,
    as_json: Json = False,
) -> None:
    """List a data set's videos with label, method, split and group."""
    from dfcore.data import scan

    manifest = scan(root, layout)
    if out is not None:
        manifest.write(out)
    emit(count_samples(manifest), as_json)


@app.command()
def prepare(
    root: Root,
    out: Annotated[Path, typer.Option(help="The crop store.")],
    layout: Layout = "auto",
    assignments: Set = None,
    as_json: Json = False,
) -> None:
    """Find the faces of a data set and keep them as a crop store; a second run does no work."""
    from dfcore.data import prepare, scan
    from dfcore.preprocessing import PreprocessingConfig

    config = PreprocessingConfig().override(assignments or [])
    manifest = scan(root, layout)
    with progress_bar(f"prepare {root.name}") as progress:
        store = prepare(manifest, out, config, progress=progress)
    document = {"store": str(out), "digest": store.digest, "crops": store.index.num_rows}
    emit(document, as_json, f"{store.index.num_rows} crops in {out}")


@app.command()
def verify(
    store: Annotated[Path, typer.Argument(help="A crop store.")],
    as_json: Json = False,
) -> None:
    """Check a crop store's index and shards against their digests."""
    from dfcore.data import CropStore

    opened = CropStore.open(store)
    opened.verify()
    emit({"store": str(store), "digest": opened.digest, "valid": True}, as_json, f"{store} is whole")


def count_samples(manifest: Manifest) -> dict[str, Any]:
    """Return a data set's counts by label, split and method."""
    from dfcore.data import FAKE

    splits: dict[str, int] = {}
    methods: dict[str, int] = {}
    for sample in manifest.samples:
        splits[sample.split] = splits.get(sample.split, 0) + 1
        methods[sample.method] = methods.get(sample.method, 0) + 1
    fakes = sum(sample.label == FAKE for sample in manifest.samples)
    return {
        "root": str(manifest.root),
        "digest": manifest.digest,
        "videos": len(manifest.samples),
        "real": len(manifest.samples) - fakes,
        "fake": fakes,
        "splits": splits,
        "methods": methods,
    }
