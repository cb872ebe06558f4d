"""rampart data synthesize | scan | prepare | join | verify | upload | show."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rampart.output import Json, Set, console, emit, progress_bar, table

if TYPE_CHECKING:
    from dfcore.data import CropStore, Manifest

app = typer.Typer(help="Data sets and crop stores.", no_args_is_help=True)

Root = Annotated[Path, typer.Argument(help="The data set's folder.")]
Store = Annotated[str, typer.Argument(help="A crop store: a folder or s3://BUCKET/PREFIX.")]
Layout = Annotated[
    str,
    typer.Option(help="ffpp, celebdf, dffd, dfdc, wilddeepfake, deepfakebench, folder; auto recognises it."),
]

_OUTCOMES = {
    "ok": "all frames asked for",
    "partial": "damaged, or fewer frames than asked for",
    "no_face": "decoded, but no face is confident and large enough",
    "unreadable": "does not decode",
    "missing": "gone since the scan",
    "altered": "changed since the scan",
    "skipped": "no sample of this data set",
}


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
    out: Annotated[
        Path | None,
        typer.Option(help="Also write the manifest as Parquet; a second scan reads what changed."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List a data set's videos with label, method, split and group; compare with the published sizes."""
    from dfcore.data import published_counts, scan

    with progress_bar(f"scan {root.name}") as progress:
        manifest = scan(root, layout, known=_former(out), progress=progress)
    if out is not None:
        manifest.write(out)
    document = count_samples(manifest) | {
        "published": [count._asdict() for count in published_counts(manifest)],
        "skipped": [entry._asdict() for entry in manifest.skipped],
    }
    if not as_json:
        _show_scan(manifest)
    counts = f"{document['real']} real and {document['fake']} fake"
    text = f"{len(manifest.samples)} samples, {counts}; {len(manifest.skipped)} entries skipped"
    emit(document, as_json, text)


@app.command()
def prepare(  # each argument is one option
    root: Root,
    out: Annotated[Path, typer.Option(help="The crop store.")],
    layout: Layout = "auto",
    workers: Annotated[int | None, typer.Option(help="Processes; else one a core, or one on a GPU.")] = None,
    shard: Annotated[
        str | None, typer.Option(help="Only share k of n, as k/n; `join` makes the store.")
    ] = None,
    assignments: Set = None,
    as_json: Json = False,
) -> None:
    """Find the faces of a data set and keep them as a crop store; a second run does no work."""
    from dfcore.data import known_manifest, parse_shard, prepare, prepare_shard, scan
    from dfcore.preprocessing import PreprocessingConfig

    share = None if shard is None else parse_shard(shard)
    config = PreprocessingConfig().override(assignments or [])
    with progress_bar(f"scan {root.name}") as progress:
        manifest = scan(root, layout, known=known_manifest(out), progress=progress)
    with progress_bar(f"prepare {root.name}{f' {share}' if share else ''}") as progress:
        if share is not None:
            done = prepare_shard(manifest, out, config, share, workers=workers, progress=progress)
            document = {"shard": str(share), "out": str(out), "parts": done.parts, "new_parts": done.new}
            emit(document, as_json, f"shard {share}: {done.parts} parts in {out}; then: rampart data join")
            return
        store = prepare(manifest, out, config, workers=workers, progress=progress)
    _describe(store, as_json)


@app.command()
def join(
    parts: Annotated[list[Path], typer.Argument(help="The folders that `prepare --shard` filled.")],
    out: Annotated[Path, typer.Option(help="The crop store.")],
    as_json: Json = False,
) -> None:
    """Make one crop store of the shares that several machines prepared."""
    from dfcore.data import join_stores

    _describe(join_stores(parts, out), as_json)


@app.command()
def verify(store: Store, as_json: Json = False) -> None:
    """Prove a crop store: digests, counts, splits and labels."""
    from dfcore.data import CropStore

    opened = CropStore.open(store)
    opened.verify()
    document = {"store": store, "digest": opened.digest, "crops": len(opened), "valid": True}
    emit(document, as_json, f"{store} is whole: {len(opened)} crops in {len(opened.shards)} shards")


@app.command()
def upload(
    store: Annotated[Path, typer.Argument(help="A crop store.")],
    to: Annotated[str, typer.Option(help="s3://BUCKET/PREFIX or file:///FOLDER.")],
    as_json: Json = False,
) -> None:
    """Put a finished crop store on S3, where training and the other commands read it."""
    from dfcore.data import CropStore

    opened = CropStore.open(store)
    opened.upload(to)
    emit({"store": to, "digest": opened.digest}, as_json, f"{to} holds {len(opened)} crops")


@app.command()
def show(  # noqa: PLR0913  # each argument is one option
    store: Store,
    out: Annotated[Path, typer.Option(help="A PNG file.")],
    split: Annotated[str | None, typer.Option(help="train, val or test.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only this method; may be given again.")] = None,
    label: Annotated[str | None, typer.Option(help="real or fake.")] = None,
    compression: Annotated[str | None, typer.Option(help="Such as c23.")] = None,
    count: Annotated[int, typer.Option(help="How many faces.")] = 60,
    as_json: Json = False,
) -> None:
    """Draw a contact sheet of any slice of a crop store, balanced over labels, methods and splits."""
    from dfcore.config import suggest
    from dfcore.data import FAKE, REAL, CropStore, contact_sheet
    from dfcore.errors import ConfigError
    from dfcore.storage import write_atomic

    labels = {"real": REAL, "fake": FAKE}
    if label is not None and label not in labels:
        raise ConfigError(f"expected label real or fake, got {label!r}{suggest(label, labels)}")
    opened = CropStore.open(store)
    rows = opened.rows(
        split=split, compression=compression, methods=method,
        labels=None if label is None else [labels[label]],
    )  # fmt: skip
    chosen = [part for part in (label, *(method or ()), compression, split) if part]
    title = f"{store.rstrip('/').rpartition('/')[2]} {', '.join(chosen)}".strip()
    write_atomic(out, contact_sheet(opened, rows, count=count, title=title))
    document = {"sheet": str(out), "crops": min(count, len(rows)), "of": len(rows)}
    emit(document, as_json, f"{min(count, len(rows))} of {len(rows)} crops in {out}")


def _describe(store: CropStore, as_json: bool) -> None:
    """Say what a finished store holds, and what became of every input."""
    outcomes = store.outcomes
    document = {
        "store": str(store.path),
        "digest": store.digest,
        "crops": len(store),
        "outcomes": outcomes,
        "report": str(store.path / "report.parquet"),
    }
    if not as_json:
        rows = [[name, _OUTCOMES.get(name, ""), str(count)] for name, count in outcomes.items()]
        table(f"inputs of {store.path}", ["outcome", "meaning", "inputs"], rows)
    emit(document, as_json, f"{len(store)} crops in {store.path}; every input: {document['report']}")


def _former(path: Path | None) -> Manifest | None:
    """Return the manifest that a scan is about to replace, if it is of this version."""
    from dfcore.data import Manifest
    from dfcore.errors import DataError

    if path is None or not path.is_file():
        return None
    try:
        return Manifest.read(path)
    except DataError as error:
        console().print(f"warning: every file is read, because {error}", markup=False)
        return None


def _show_scan(manifest: Manifest) -> None:
    """Show what was found by method, against the published sizes, and what was skipped."""
    from dfcore.data import FAKE, SPLITS, published_counts

    methods: dict[tuple[str, ...], Counter[str]] = {}
    for sample in manifest.samples:
        label = "fake" if sample.label == FAKE else "real"
        row = (sample.dataset, sample.method, sample.compression, label)
        methods.setdefault(row, Counter())[sample.split] += 1
    rows = [[*row, *(str(found[split]) for split in SPLITS)] for row, found in sorted(methods.items())]
    table(f"{manifest.root}", ["data set", "method", "compression", "label", *SPLITS], rows)
    counts = published_counts(manifest)
    if counts:
        rows = [
            [
                one.dataset,
                one.what,
                str(one.found),
                str(one.published),
                "" if one.found == one.published else "differs",
            ]
            for one in counts
        ]
        table("against the published sizes", ["data set", "what", "found", "published", ""], rows)
    if any(one.found != one.published for one in counts):
        console().print("warning: not the whole published data set (or more); see the table")
    reasons = Counter(entry.reason for entry in manifest.skipped)
    if reasons:
        example = {entry.reason: entry.path for entry in reversed(manifest.skipped)}
        rows = [[reason, str(count), example[reason]] for reason, count in reasons.most_common()]
        table("skipped", ["reason", "entries", "first"], rows)


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
