"""Build a bundle: everything that a release is, in one folder, with digests and a signature."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dfcore.errors import BundleError, ConfigError, DataError, WorkFailed
from dfcore.evaluation.evaluate import detector_digest
from dfcore.models import load_detector
from dfcore.models.bundle import CARD, MANIFEST, SIGNATURE, list_files
from dfcore.provenance import sha256_file
from dfcore.release.card import write_card
from dfcore.release.gate import Decision
from dfcore.release.measured import EVIDENCE, SAMPLES, read_measured
from dfcore.storage import write_atomic

__all__ = ["build_bundle", "ensure_key", "sign_bundle"]

WEIGHTS = "weights.safetensors"


def build_bundle(
    out: Path,
    checkpoint: Path,
    evidence: Path,
    decision: Path,
    report: Path | None,
    reference: Mapping[str, Any],
) -> Path:
    """Collect a release in a folder; sign it with `sign_bundle` afterwards.

    Args:
        out: the folder to make; an older bundle there is replaced.
        checkpoint: training output with weights.safetensors and detector.json.
        evidence: evaluation folder (or its evidence.json); samples.parquet beside it goes along,
            since the next candidate is compared with it.
        decision: the gate's decision as JSON.
        report: the HTML report, if one was written.
        reference: what drift is measured against.

    Returns:
        `out`.

    Raises:
        BundleError: the gate said no, or judged other evidence than this.
        ConfigError: the decision can't be read, or `out` is a folder of something else.
        DataError: a part is missing.
    """
    verdict = Decision.load(decision)
    measured = read_measured(evidence)
    if not verdict.promoted:
        reasons = "; ".join(rule.name for rule in verdict.failed)
        raise BundleError(f"expected a decision that promotes, got no ({reasons}); nothing was bundled")
    if verdict.evidence_digest != measured.digest:
        raise BundleError(f"{decision} judged other evidence than {evidence}; run the gate on this evidence")
    parts = {name: checkpoint / name for name in (WEIGHTS, CARD)}
    parts |= {EVIDENCE: evidence / EVIDENCE if evidence.is_dir() else evidence, "decision.json": decision}
    if (measured.folder / SAMPLES).is_file():
        parts[SAMPLES] = measured.folder / SAMPLES
    if report is not None:
        parts["report.html"] = report
    _check_parts(out, parts)
    if detector_digest(load_detector(checkpoint)) != measured.model.digest:
        raise BundleError(f"{evidence} measured other weights than {checkpoint}; evaluate this detector")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=out.parent) as name:
        folder = Path(name) / "bundle"
        _fill(folder, parts, reference)
        write_card(folder / "MODEL_CARD.md", measured, verdict, folder / CARD)
        _write_manifest(folder)
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    return out


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
            shutil.copyfile(source, folder / name)
        text = json.dumps(dict(reference), indent=2, sort_keys=True, allow_nan=False)
    except OSError as error:
        raise WorkFailed(
            f"expected to write a bundle in {folder}, got: {error.strerror}; free space"
        ) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"expected a drift reference of finite JSON numbers, got: {error}") from error
    write_atomic(folder / "reference.json", f"{text}\n".encode())


def _write_manifest(folder: Path) -> None:
    files = {
        name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
        for name in list_files(folder)
        if name not in {MANIFEST, SIGNATURE}
    }
    text = json.dumps({"format_version": 1, "files": files}, indent=2, sort_keys=True)
    write_atomic(folder / MANIFEST, f"{text}\n".encode())


def sign_bundle(folder: Path, private_key: Path) -> Path:
    """Sign every file of a bundle, the manifest among them, with an offline key.

    Args:
        folder: a bundle with its manifest.
        private_key: PEM, elliptic curve; see `ensure_key`.

    Returns:
        The path of signature.json.

    Raises:
        BundleError: there is no manifest.
        ConfigError: the key can't be read.
    """
    from model_signing import hashing, signing  # 1.5 seconds of import

    if MANIFEST not in list_files(folder):
        raise BundleError(f"expected {MANIFEST} in {folder}, found none; build the bundle first")
    try:
        config = signing.Config()  # type: ignore[no-untyped-call]  # the library leaves it bare
        signer = config.use_elliptic_key_signer(private_key=private_key)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"expected a PEM private key at {private_key}, got: {error}") from error
    ours = hashing.Config()  # type: ignore[no-untyped-call]  # the library leaves it bare
    ours.set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    with tempfile.TemporaryDirectory(prefix="rampart-signature-") as name:
        staged = Path(name) / SIGNATURE
        signer.set_hashing_config(ours).sign(folder, staged)
        write_atomic(folder / SIGNATURE, staged.read_bytes())
    return folder / SIGNATURE


def ensure_key(path: Path) -> Path:
    """Make an elliptic-curve key pair on first use: `path` (mode 0600) and the same name with .pub.

    Returns:
        The path of the public key.

    Raises:
        ConfigError: what is at `path` is no private key.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if path.suffix == ".pub":
        raise ConfigError(
            f"expected the path of a private key, got {path}; the public one is written beside it"
        )
    public = path.with_suffix(".pub")
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _create(path, pem)
    try:
        known = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"expected a PEM private key at {path}, got: {error}") from error
    pem = known.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if not public.exists() or public.read_bytes() != pem:
        write_atomic(public, pem)
    return public


def _create(path: Path, data: bytes) -> None:
    """Write a secret file whole unless another process was first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".key-", dir=path.parent) as name:
        staged = Path(name) / "key"
        write_atomic(staged, data, mode=0o600)
        try:
            path.hardlink_to(staged)
        except FileExistsError:
            return  # the other process's key is as good
