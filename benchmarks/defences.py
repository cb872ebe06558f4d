"""python -m benchmarks.defences --out DIR [--seeds 3] [--part K/N] --json: every defence under every attack.

For each seed: its own synthetic corpora, its own baseline, and from it one detector for each tiny recipe,
trained on the same crops for the same number of epochs; what differs is the defence. Each is measured on the
test split (one crop a video) of the corpus that it was trained on and of the other one, whose manipulation
training never sees. autoattack-binary costs more than everything else together and is measured on a balanced
choice of the first corpus. Without a seed's corpora in DIR they are rendered; a detector that is in the
record already is not trained again, so that a run can be broken off and go on. --part shares the detectors
between processes on one DIR; --table prints the record as Markdown.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dfcore.attacks import AutoAttackBinary, UNetAttack
from dfcore.data import Crops, CropStore, prepare, scan, synthesize
from dfcore.evaluation import Evidence, Scenario, evaluate, get_suite
from dfcore.models import load_detector
from dfcore.preprocessing import PreprocessingConfig
from dfcore.provenance import versions
from dfcore.recipes import RECIPES, get_recipe
from dfcore.training import Recipe, train
from rampart.demo import IDENTITIES

CORPORA = {"ffpp": IDENTITIES, "celebdf": 12}
BASELINE = "demo_baseline"
TRAIN_CROPS, AUTOATTACK_CROPS = 1200, 48
ATTACKS = ("pgd20_2_255", "pgd20_4_255", "pgd20_8_255", "blur_2px", "flow_1px")
COLUMNS = ("clean", *ATTACKS, "unet_8_255", "autoattack_4_255", "jpeg_50", "h264")
# half the suite's batch: fitting it is what takes longest for so small a detector
_UNET = Scenario(name="unet_8_255", attack=UNetAttack(epsilon=8 / 255, batch_size=16))
_WHOLE = (*get_suite("full", ["clean", "jpeg_50", "h264", *ATTACKS]), _UNET)
_AUTO = Scenario(
    name="autoattack_4_255",
    attack=AutoAttackBinary(epsilon=4 / 255),
    builds_on=("pgd20_4_255",),
    again="standing",
)


def defences() -> list[str]:
    """Return the recipes that the table compares, the baseline first."""
    return [BASELINE, *sorted(name for name in RECIPES if name.startswith("tiny_"))]


def prepare_seed(seed: int, folder: Path) -> None:
    """Render and prepare a seed's corpora, and train its baseline, unless that is done."""
    size = get_recipe(BASELINE).model.image_size
    for layout, identities in CORPORA.items():
        corpus = folder / f"{layout}-videos"
        if not corpus.is_dir():
            synthesize(layout, corpus, identities=identities, seed=seed)
        prepare(scan(corpus), folder / layout, PreprocessingConfig(image_size=size))
    train(_recipe(BASELINE, seed), CropStore.open(folder / "ffpp"), folder / BASELINE, resume=True)


def run(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train one detector from the baseline's weights and measure it.

    Returns:
        AUC and accuracy with their intervals, by corpus and scenario; seconds of training; tripped guards.
    """
    recipe = _recipe(name, seed)
    store = CropStore.open(folder / "ffpp")
    initial = folder / BASELINE if recipe.initialise_from_baseline else None
    model = train(recipe, store, folder / name, initial=initial, resume=True)
    tested = {
        layout: CropStore.open(folder / layout).select(split="test", max_frames_per_video=1)
        for layout in CORPORA
    }
    few = balanced(tested["ffpp"], AUTOATTACK_CROPS, seed)
    fitted_on = store.select(split="train", max_frames_per_video=1)
    chain = tuple(item for item in _WHOLE if item.name in ("clean", *_AUTO.builds_on) or _leads(item))
    arguments: dict[str, Any] = {"name": name, "seed": seed, "cache": folder / f"{name}-cache"}
    whole = evaluate(
        load_detector(model),
        tested,
        suite=_WHOLE,
        out=folder / f"{name}-evidence",
        training=fitted_on,
        **arguments,
    )
    auto = evaluate(
        load_detector(model), {"ffpp": few}, suite=(*chain, _AUTO), out=folder / f"{name}-auto", **arguments
    )
    figures = {layout: {column: _figures(whole, layout, column) for column in COLUMNS} for layout in CORPORA}
    training = json.loads((model / "training.json").read_text(encoding="utf-8"))
    figures["ffpp"][_AUTO.name] = _figures(auto, "ffpp", _AUTO.name)
    return {
        "figures": {layout: {k: v for k, v in by.items() if v} for layout, by in figures.items()},
        "train_seconds": round(sum(record["seconds"] for record in training["records"]), 1),
        "best_epoch": training["best_epoch"],
        "tripped": sorted({f"{guard.name} on {guard.corpus}" for guard in whole.tripped()}),
    }


def _leads(scenario: Scenario) -> bool:
    """Whether the chain to autoattack's budget needs it."""
    return scenario.kind == "pgd" and scenario.role == "report" and (scenario.epsilon or 1) < 4 / 255


def _recipe(name: str, seed: int) -> Recipe:
    recipe = get_recipe(name)
    data = recipe.data.model_copy(update={"max_train_crops": TRAIN_CROPS})
    return recipe.model_copy(update={"seed": seed, "data": data})


def balanced(crops: Crops, count: int, seed: int) -> Crops:
    """Draw so many crops, half of each class."""
    draw = np.random.default_rng(seed)
    parts = [draw.permutation(np.flatnonzero(crops.labels == label))[: count // 2] for label in (0, 1)]
    return crops.subset(np.sort(np.concatenate(parts)))


def _figures(evidence: Evidence, corpus: str, scenario: str) -> dict[str, Any]:
    result = evidence.find(scenario, corpus)
    if result is None:
        return {}
    return {
        "n": result.n,
        **{
            key: [round(part, 4) for part in (found.value, found.low, found.high)]
            for key, found in result.metrics.items()
            if key in ("auc", "accuracy")
        },
    }


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time work in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def table(runs: Mapping[str, Any], corpus: str) -> str:
    """Return the mean over seeds as Markdown: AUC, but for autoattack-binary, where accuracy is exact."""
    lines = ["| recipe | " + " | ".join(COLUMNS) + " | s |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name in defences():
        found = [run for key, run in sorted(runs.items()) if key.rsplit("/", 1)[0] == name]
        if not found:
            continue
        cells = [
            _cell([run["figures"].get(corpus, {}).get(column) for run in found], column) for column in COLUMNS
        ]
        seconds = np.mean([run["train_seconds"] for run in found])
        lines.append(f"| `{name}` | " + " | ".join(cells) + f" | {seconds:.0f} |")
    return "\n".join(lines)


def _cell(found: list[Any], column: str) -> str:
    key = "accuracy" if column.startswith("autoattack") else "auc"
    values = [item[key] for item in found if item and key in item]
    if not values:
        return ""
    mean = np.mean([value[0] for value in values])
    low, high = min(value[1] for value in values), max(value[2] for value in values)
    return f"{mean:.3f} ({low:.2f}-{high:.2f})"


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.defences", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="corpora, detectors and the record")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", default="1/1", help="K/N: every N-th detector")
    parser.add_argument("--record", type=Path, help="runs that are known already; default DIR/defences.json")
    parser.add_argument("--table", action="store_true", help="print the record as Markdown and end")
    parser.add_argument("--json", action="store_true", help="accepted; the output always is JSON")
    options = parser.parse_args()
    record = options.record or options.out / "defences.json"
    if options.table:
        runs = json.loads(record.read_text(encoding="utf-8"))["runs"]
        sys.stdout.write("\n\n".join(f"{corpus}\n\n{table(runs, corpus)}" for corpus in CORPORA) + "\n")
        return
    part, parts = (int(text) for text in options.part.split("/"))
    tasks = [(seed, name) for seed in range(options.seeds) for name in defences()]
    for seed, name in tasks[part - 1 :: parts]:
        if f"{name}/{seed}" in _known(record):
            continue
        folder = options.out / f"seed-{seed}"
        with _alone(folder):
            prepare_seed(seed, folder)
        found = run(name, seed, folder)
        _keep(record, f"{name}/{seed}", found)
        sys.stderr.write(f"{name}/{seed}: {json.dumps(found)}\n")
    sys.stdout.write(record.read_text(encoding="utf-8"))


def _known(record: Path) -> dict[str, Any]:
    return dict(json.loads(record.read_text(encoding="utf-8"))["runs"]) if record.is_file() else {}


def _keep(record: Path, key: str, found: dict[str, Any]) -> None:
    with _alone(record.parent):
        document = {
            "name": "defences",
            "unit": "AUC and accuracy with 95 % intervals over videos",
            "train_crops": TRAIN_CROPS,
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            "versions": versions(),
            "runs": dict(sorted({**_known(record), key: found}.items())),
        }
        temporary = record.with_suffix(".new")
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        temporary.replace(record)


if __name__ == "__main__":
    main()
