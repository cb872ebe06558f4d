"""rampart demo --out DIR: the main job end to end, small.

Renders two corpora, runs the pipeline, serves what was published, asks the server; writes DIR/summary.json.
A second run in the same folder reuses what is unchanged.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rampart.output import Json, Set, console, emit

if TYPE_CHECKING:
    from dfcore.data import Manifest
    from rampart.steps import Steps

MODEL = "deepfake"
CHANNEL = "production"
IDENTITIES = 48
CROSS_IDENTITIES = 12
# A detector's crops are as large as its recipe's images.
SETTINGS = {
    "baseline_recipe": "demo_baseline",
    "robust_recipe": "demo_robust",
    "policy": "demo",
    "suite": "quick",
    "frames_per_video": 2,
}


def demo(
    out: Annotated[Path, typer.Option(help="The demo's folder.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the corpora, the training and the attacks.")] = 0,
    identities: Annotated[
        int, typer.Option(help="People in the corpus that is trained on; even.")
    ] = IDENTITIES,
    cross_identities: Annotated[
        int, typer.Option(help="People in the other corpus; even.")
    ] = CROSS_IDENTITIES,
    assignments: Set = None,
    as_json: Json = False,
) -> None:
    """Run the main job on this machine: corpus, training, attack, gate, bundle, server."""
    from dfcore.storage import write_atomic
    from rampart.local_run import run_locally
    from rampart.pipeline import parse_assignments
    from rampart.steps import Steps
    from rampart.summary import show, summarise

    started = time.monotonic()
    out = out.resolve()
    corpora = {"ffpp": identities, "celebdf": cross_identities}
    with Steps() as steps:
        roots = {name: _corpus(steps, out, name, count, seed) for name, count in corpora.items()}
        arguments = pipeline_arguments(out, roots, seed, parse_assignments(assignments or []))
        outputs = run_locally(arguments, out / "run", steps)
        manifests = {name: _scanned(outputs[key]) for name, key in _STORES.items()}
        answers = _answers(steps, out, outputs, arguments, manifests["ffpp"]) if outputs["uri"] else {}
    seconds = {**steps.seconds, "total": round(time.monotonic() - started, 2)}
    report = out / "report.html"
    write_atomic(report, Path(outputs["report"]).read_bytes())
    outputs["report"] = str(report)
    summary = summarise(outputs, arguments, manifests, answers, seconds, steps.reused)
    path = out / "summary.json"
    write_atomic(path, f"{json.dumps(summary, indent=2)}\n".encode())
    show(summary, path)
    emit(summary, as_json, str(path))
    if not outputs["uri"]:
        console().print("the gate stopped the robust detector; nothing was published or served")
        raise typer.Exit(1)


_STORES = {"ffpp": "store", "celebdf": "cross_store"}


def pipeline_arguments(
    out: Path, roots: dict[str, Path], seed: int, overrides: dict[str, Any]
) -> dict[str, Any]:
    """Return the pipeline's parameters for a demo in a folder; overrides win."""
    from dfcore.recipes import get_recipe

    settings = {**SETTINGS, **overrides}
    seeded = [f"seed={seed}"]
    size = get_recipe(settings["baseline_recipe"]).model.image_size
    return {
        "data_root": str(roots["ffpp"]),
        "cross_root": str(roots["celebdf"]),
        "registry": f"file://{out / 'registry'}",
        "model_name": MODEL,
        "channel": CHANNEL,
        "preprocessing": {"image_size": size},
        "seed": seed,
        "cache": str(out / "cache"),
        **settings,
        "baseline_overrides": [*seeded, *settings.get("baseline_overrides", ())],
        "robust_overrides": [*seeded, *settings.get("robust_overrides", ())],
    }


def _corpus(steps: Steps, out: Path, layout: str, identities: int, seed: int) -> Path:
    """Render a corpus, unless the folder already holds the one of these settings."""
    from components.reuse import code_digest
    from dfcore.data.synthetic import synthesize
    from dfcore.provenance import digest_json

    code = code_digest(("data/synthetic", "preprocessing/encoding"))
    settings = {"layout": layout, "identities": identities, "seed": seed, "code": code}
    root = out / "corpora" / f"{layout}-{digest_json(settings)[:12]}"
    with steps.step(f"synthesize {layout}") as say:
        if root.is_dir():
            say("reused: settings and code are unchanged")
        else:
            synthesize(
                layout, root, identities=identities, seed=seed,
                progress=lambda done, total: say(f"{done}/{total} videos"),
            )  # fmt: skip
    return root


def _scanned(store: str) -> Manifest:
    """Read the manifest that the crop store was made from."""
    from dfcore.data import Manifest

    return Manifest.read(Path(store) / "manifest.parquet")


def _answers(
    steps: Steps, out: Path, outputs: dict[str, Any], arguments: dict[str, Any], manifest: Manifest
) -> dict[str, Any]:
    """Ask a server of the published version for a real and a fake video of people it was not trained on."""
    from dfcore.data import FAKE, REAL
    from rampart.server_process import ask, running_server

    answers = {}
    with (
        steps.step("serve") as say,
        running_server(
            outputs["uri"], arguments["model_name"], arguments["registry"], out / "server.log", out / "cache"
        ) as address,
    ):
        for word, label in (("real", REAL), ("fake", FAKE)):
            sample = next(item for item in manifest.samples if item.split == "test" and item.label == label)
            say(f"asking {address} for a {word} video")
            answer = ask(address, arguments["model_name"], Path(arguments["data_root"]) / sample.path)
            answers[word] = {
                "video": sample.path, "method": sample.method, "compression": sample.compression, **answer
            }  # fmt: skip
    return answers
