"""Build a bundle: everything that a release is, in one folder, with digests and a signature."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dfcore.errors import BundleError, ConfigError, DataError, WorkFailed
from dfcore.evaluation.evaluate import detector_digest
from dfcore.models import Detector, load_detector
from dfcore.models.bundle import CARD, MANIFEST, SIGNATURE, list_files
from dfcore.models.export import ONNX_FILE, write_onnx
from dfcore.models.golden import GOLDEN_FILE, write_golden
from dfcore.provenance import sha256_file
from dfcore.release.card import write_card
from dfcore.release.gate import Decision
from dfcore.release.measured import EVIDENCE, SAMPLES, Measured, read_measured
from dfcore.release.ml_bom import write_ml_bom
from dfcore.release.model_archive import MODEL_ARCHIVE, write_model_archive
from dfcore.storage import write_atomic
from dfcore.storage.base import check_key

__all__ = ["build_bundle"]

logger = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"
BOM = "bom.cdx.json"
_MADE = {
    GOLDEN_FILE, ONNX_FILE, MODEL_ARCHIVE, BOM, MANIFEST, SIGNATURE, "MODEL_CARD.md", "reference.json",
}  # fmt: skip


def build_bundle(
    out: Path,
    checkpoint: Path,
    evidence: Path,
    decision: Path,
    report: Path | None,
    reference: Mapping[str, Any],
    extra: Mapping[str, Path] | None = None,
) -> Path:
    """Collect a release in a folder; sign it with `sign_bundle` afterwards.

    The same inputs give the same bytes, dates included: they are the evidence's and the decision's. Exports
    are made here: ONNX, and TorchServe's archive. A backbone that ONNX can't express is bundled without, with
    a warning; PyTorch serves it.

    Args:
        out: the folder to make; an older bundle there is replaced.
        checkpoint: training output with weights.safetensors and detector.json.
        evidence: evaluation folder (or its evidence.json); samples.parquet beside it goes along,
            since the next candidate is compared with it.
        decision: the gate's decision as JSON.
        report: the HTML report, if one was written.
        reference: what drift is measured against.
        extra: further files by their name in the bundle.

    Returns:
        `out`.

    Raises:
        BundleError: the gate said no, or judged other evidence than this.
        CheckFailed: the exported graph gives other scores than the detector.
        ConfigError: the decision can't be read, `out` is a folder of something else, or an extra file has
            the name of a part.
        DataError: a part is missing.
    """
    verdict, measured = _judged(evidence, decision)
    parts = _add(_parts(checkpoint, evidence, decision, report), extra or {})
    _check_parts(out, parts)
    detector = load_detector(checkpoint)
    if detector_digest(detector) != measured.model.digest:
        raise BundleError(f"{evidence} measured other weights than {checkpoint}; evaluate this detector")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=out.parent) as name:
        folder = Path(name) / "bundle"
        _fill(folder, parts, reference)
        _complete(folder, detector, measured, verdict)
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    return out


def _judged(evidence: Path, decision: Path) -> tuple[Decision, Measured]:
    verdict, measured = Decision.load(decision), read_measured(evidence)
    if not verdict.promoted:
        reasons = "; ".join(rule.name for rule in verdict.failed)
        raise BundleError(f"expected a decision that promotes, got no ({reasons}); nothing was bundled")
    if verdict.evidence_digest != measured.digest:
        raise BundleError(f"{decision} judged other evidence than {evidence}; run the gate on this evidence")
    return verdict, measured


def _parts(checkpoint: Path, evidence: Path, decision: Path, report: Path | None) -> dict[str, Path]:
    file = evidence / EVIDENCE if evidence.is_dir() else evidence
    parts = {name: checkpoint / name for name in (WEIGHTS, CARD)}
    parts |= {EVIDENCE: file, "decision.json": decision}
    if file.with_name(SAMPLES).is_file():
        parts[SAMPLES] = file.with_name(SAMPLES)
    if report is not None:
        parts["report.html"] = report
    return parts


def _add(parts: Mapping[str, Path], extra: Mapping[str, Path]) -> dict[str, Path]:
    for name in map(check_key, extra):
        if name in _MADE | set(parts):
            raise ConfigError(f"expected another name for the extra file {name}: the bundle has one already")
    return {**parts, **extra}


def _check_parts(out: Path, parts: Mapping[str, Path]) -> None:
    missing = [str(path) for path in parts.values() if not path.is_file()]
    if missing:
        raise DataError(f"expected {', '.join(missing)}, found no such file; run the step that writes it")
    if out.exists() and not (out.is_dir() and ((out / MANIFEST).is_file() or not any(out.iterdir()))):
        raise ConfigError(
            f"expected a new folder or an older bundle at {out}, found something else; name another"
        )


def _fill(folder: Path, parts: Mapping[str, Path], reference: Mapping[str, Any]) -> None:
    try:
        folder.mkdir()
        for name, source in parts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)
        text = json.dumps(dict(reference), indent=2, sort_keys=True, allow_nan=False)
    except OSError as error:
        raise WorkFailed(
            f"expected to write a bundle in {folder}, got: {error.strerror}; free space"
        ) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"expected a drift reference of finite JSON numbers, got: {error}") from error
    write_atomic(folder / "reference.json", f"{text}\n".encode())


def _complete(folder: Path, detector: Detector, measured: Measured, verdict: Decision) -> None:
    """Write what is made from the parts: golden input, exports, card, bill of materials, manifest."""
    write_golden(folder / GOLDEN_FILE, detector)
    try:
        write_onnx(folder / ONNX_FILE, detector, folder / GOLDEN_FILE)
    except ConfigError as error:
        logger.warning("no %s in this bundle: %s", ONNX_FILE, error)
    write_model_archive(folder / MODEL_ARCHIVE, folder, verdict.created)
    write_card(folder / "MODEL_CARD.md", measured, verdict, folder / CARD)
    write_ml_bom(folder / BOM, measured, verdict, folder)
    _write_manifest(folder)


def _write_manifest(folder: Path) -> None:
    files = {
        name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
        for name in list_files(folder)
        if name not in {MANIFEST, SIGNATURE}
    }
    text = json.dumps({"format_version": 1, "files": files}, indent=2, sort_keys=True)
    write_atomic(folder / MANIFEST, f"{text}\n".encode())
