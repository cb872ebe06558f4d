from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dfcore.evaluation import detector_digest
from dfcore.models import DetectorCard, DetectorConfig, build_detector, save_detector
from dfcore.preprocessing import PreprocessingConfig
from dfcore.release import Registry, build_bundle, check_gate, ensure_key, load_policy, sign_bundle
from tests.release.evidence import GOOD, WEAK, write_evaluation

on_s3_too = pytest.mark.parametrize("registry", ["file", "s3"], indirect=True)
on_every_store = pytest.mark.parametrize("registry", ["file", "s3", "minio"], indirect=True)


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, its evaluation, the baseline's, the decision and a key."""
    folder = tmp_path_factory.mktemp("parts")
    config = DetectorConfig(backbone="mobilenetv3_small_050", image_size=64)
    detector = build_detector(config)
    card = DetectorCard(architecture=config, preprocessing=PreprocessingConfig(image_size=64), threshold=0.5)
    save_detector(folder / "checkpoint", detector, card)
    write_evaluation(folder / "evaluation", GOOD, digest=detector_digest(detector))
    write_evaluation(folder / "baseline", WEAK)
    decision = check_gate(folder / "evaluation", load_policy("demo"), folder / "baseline")
    decision.save(folder / "decision.json")
    (folder / "report.html").write_text("<html></html>")
    ensure_key(folder / "keys/rampart.key")
    return folder


def make_bundle(out: Path, parts: Path, note: str = "") -> Path:
    """Build and sign; another note makes another bundle."""
    build_bundle(
        out, parts / "checkpoint", parts / "evaluation", parts / "decision.json", parts / "report.html",
        {"scores": [0.1, 0.9], "note": note},
    )  # fmt: skip
    sign_bundle(out, parts / "keys/rampart.key")
    return out


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, parts: Path) -> Path:
    """Two signed bundles; tests get copies."""
    folder = tmp_path_factory.mktemp("built")
    make_bundle(folder / "bundle", parts)
    make_bundle(folder / "second", parts, note="second")
    return folder


@pytest.fixture
def bundle(tmp_path: Path, built: Path) -> Path:
    return Path(shutil.copytree(built / "bundle", tmp_path / "bundle"))


@pytest.fixture
def public_key(parts: Path) -> Path:
    return parts / "keys/rampart.pub"


@pytest.fixture
def registry(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry in a folder, or on the servers that the test's mark names."""
    monkeypatch.setenv("RAMPART_CACHE", str(tmp_path / "cache"))
    uri, kind = str(tmp_path / "registry"), getattr(request, "param", "file")
    if kind != "file":
        uri = f"{request.getfixturevalue(f'{kind}_server')}/reg"
    monkeypatch.setenv("RAMPART_REGISTRY", uri)
    return Registry(uri)


@pytest.fixture
def second(tmp_path: Path, built: Path) -> Path:
    return Path(shutil.copytree(built / "second", tmp_path / "second"))
