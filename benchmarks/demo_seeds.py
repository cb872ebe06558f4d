"""python -m benchmarks.demo_seeds --seeds 10 --out DIR --json: does the demo's story hold whatever the seed?

For each seed: its own corpus, its own baseline and robust detector, evaluated with the quick suite on the
in-domain test split, at the demo's own settings. A seed that is in DIR already is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dfcore.data import CropStore, prepare, scan, synthesize
from dfcore.evaluation import Evidence, evaluate
from dfcore.models import load_detector
from dfcore.preprocessing import PreprocessingConfig
from dfcore.provenance import versions
from dfcore.recipes import get_recipe
from dfcore.training import train
from rampart.demo import IDENTITIES, SETTINGS

SCENARIOS = ("clean", "jpeg_50", "h264", "fgsm_2_255", *(f"pgd20_{e}_255" for e in (1, 2, 4, 8)))


def run_seed(seed: int, out: Path) -> dict[str, dict[str, float]]:
    """Return AUC by scenario for the baseline and the robust detector of one seed."""
    done = out / f"seed-{seed}.json"
    if done.is_file():
        results: dict[str, dict[str, float]] = json.loads(done.read_text(encoding="utf-8"))
        return results
    folder = out / f"seed-{seed}"
    recipes = {
        name: get_recipe(str(SETTINGS[f"{name}_recipe"])).model_copy(update={"seed": seed})
        for name in ("baseline", "robust")
    }
    corpus, store = folder / "corpus", folder / "store"
    if not corpus.is_dir():
        synthesize("ffpp", corpus, identities=IDENTITIES, seed=seed)
    prepare(scan(corpus), store, PreprocessingConfig(image_size=recipes["baseline"].model.image_size))
    crops = CropStore.open(store).select(
        split="test", max_frames_per_video=int(str(SETTINGS["frames_per_video"]))
    )
    results = {}
    for name, recipe in recipes.items():
        initial = folder / "baseline" if recipe.initialise_from_baseline else None
        model = train(recipe, CropStore.open(store), folder / name, initial=initial, resume=True)
        evidence = evaluate(
            load_detector(model), {"ffpp": crops}, suite="quick", name=name,
            out=folder / f"{name}-evidence", seed=seed,
        )  # fmt: skip
        assert evidence.valid, f"seed {seed}, {name}: a guard tripped"
        results[name] = {scenario: _auc(evidence, scenario) for scenario in SCENARIOS}
    done.write_text(json.dumps(results), encoding="utf-8")
    return results


def _auc(evidence: Evidence, scenario: str) -> float:
    result = evidence.find(scenario, "ffpp")
    assert result is not None, f"the quick suite has no {scenario}"
    return result.metrics["auc"].value


def summarise(results: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Return median, minimum and maximum over seeds, and how many seeds reach every figure asked for."""
    reached = [
        run["baseline"]["clean"] >= 0.95
        and run["robust"]["pgd20_2_255"] >= 0.75
        and run["robust"]["pgd20_2_255"] - run["baseline"]["pgd20_2_255"] >= 0.35
        for run in results
    ]
    spread = {
        name: {
            scenario: dict(
                zip(
                    ("median", "min", "max"),
                    (
                        round(float(pick([run[name][scenario] for run in results])), 4)
                        for pick in (np.median, np.min, np.max)
                    ),
                    strict=True,
                )
            )
            for scenario in SCENARIOS
        }
        for name in ("baseline", "robust")
    }
    return {"name": "demo_seeds", "unit": "AUC", "seeds": len(results), "reached": sum(reached), **spread}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_seeds", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for seed in range(options.seeds):
        options.out.mkdir(parents=True, exist_ok=True)
        results.append(run_seed(seed, options.out))
        sys.stderr.write(f"seed {seed}: {json.dumps(results[-1])}\n")
    document = {**summarise(results), "versions": versions()}
    sys.stdout.write(json.dumps(document, indent=None if options.json else 2) + "\n")


if __name__ == "__main__":
    main()
