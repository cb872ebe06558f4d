"""Make evaluations with chosen scores: real evidence files, without the hours of attacking."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dfcore.evaluation.evidence import Evidence
from dfcore.evaluation.metrics import measure
from dfcore.provenance import sha256_file

VIDEOS, CROPS = 40, 3
DIGESTS = {"ffpp": "a" * 64, "celebdf": "b" * 64}
THREATS: dict[str, dict[str, Any]] = {
    name: {
        "knowledge": "white-box",
        "norm": "linf",
        "epsilon": f"{grey}/255",
        "steps": 20,
        "restarts": 1,
        "seed": 0,
    }
    for name, grey in (("pgd20_1_255", 1), ("pgd20_2_255", 2), ("pgd20_4_255", 4), ("pgd20_8_255", 8))
}
SCENARIOS = ("clean", "jpeg_50", "h264", "fgsm_2_255", *THREATS)
GOOD = {"clean": 3.0, "jpeg_50": 3.0, "h264": 3.0, "fgsm_2_255": 2.5, "pgd20_2_255": 2.0}
WEAK = {**GOOD, "fgsm_2_255": 0.0, "pgd20_2_255": -1.0}


def write_evaluation(
    folder: Path,
    separation: dict[str, float],
    *,
    digest: str = "0" * 64,
    created: datetime | None = None,
    change: dict[str, Any] | None = None,
    corpora: Sequence[str] = tuple(DIGESTS),
) -> Path:
    """Write evidence.json and samples.parquet with fakes `separation` above reals, in logits."""
    rng = np.random.default_rng(0)
    results, tables = [], []
    for corpus in corpora:
        for scenario in SCENARIOS:
            labels = np.repeat(np.arange(VIDEOS) % 2, CROPS)
            videos = np.repeat([f"{corpus}/{index}" for index in range(VIDEOS)], CROPS)
            logits = rng.normal(size=len(labels)) + separation.get(scenario, 0.5) * labels
            scores = 1 / (1 + np.exp(-logits))
            found = measure(scores, labels, videos, threshold=0.5, resamples=50)
            metrics = {name: estimate._asdict() for name, estimate in found.items()}
            threat = THREATS.get(scenario, {"knowledge": "none"})
            shared = {"scenario": scenario, "role": "report", "corpus": corpus, "threat_model": threat,
                      "n": len(labels), "videos": VIDEOS, "attacked": 0, "metrics": metrics}  # fmt: skip
            results += [{**shared, "slice": part} for part in ("all", "video", "method=swap")]
            count = len(labels)
            tables.append(
                pa.table(
                    {
                        "corpus": pa.array([corpus] * count).dictionary_encode(),
                        "scenario": pa.array([scenario] * count).dictionary_encode(),
                        "crop": pa.array(np.arange(count)),
                        "video_id": videos.tolist(),
                        "label": pa.array(labels, pa.int8()),
                        "method": ["swap"] * count,
                        "score": scores,
                    }
                )
            )
    folder.mkdir(parents=True)
    pq.write_table(pa.concat_tables(tables), folder / "samples.parquet")
    guard = {"name": "noise", "corpus": "ffpp", "passed": True, "value": 0.9, "bound": ">= .8", "detail": ""}
    document = {
        "schema_version": 1,
        "model": {"name": "tiny", "digest": digest, "backbone": "mobilenetv3_small_050", "threshold": 0.5},
        "suite": "quick", "seed": 0, "resamples": 50,
        "corpora": {name: DIGESTS.get(name, "c" * 64) for name in corpora},
        "results": results,
        "guards": [guard],
        "valid": True, "samples_digest": sha256_file(folder / "samples.parquet"), "commit": "abc",
        "versions": {"torch": "2"}, "created": (created or datetime.now(UTC)).isoformat(), "seconds": 1.0,
    }  # fmt: skip
    Evidence.model_validate(document)  # the evaluation's own model, so the two can't drift apart
    (folder / "evidence.json").write_text(json.dumps(document | (change or {})))
    return folder


def edit(folder: Path, **change: Any) -> Path:
    """Change top-level fields of evidence.json."""
    path = folder / "evidence.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder
