from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import yaml

from dfcore.errors import BundleError, ConfigError, DataError, WorkFailed
from dfcore.models import load_detector
from dfcore.release import build_bundle, check_gate, ensure_key, load_policy, sign_bundle, verify_bundle
from tests.release.conftest import make_bundle
from tests.release.evidence import edit, write_evaluation

FILES = {
    "MODEL_CARD.md", "bom.cdx.json", "decision.json", "detector.json", "detector.mar", "detector.onnx",
    "evidence.json", "golden.safetensors", "manifest.json", "reference.json", "report.html",
    "samples.parquet", "signature.json", "weights.safetensors",
}  # fmt: skip


def _build(out: Path, parts: Path, evaluation: Path | None = None, decision: Path | None = None) -> Path:
    return build_bundle(
        out,
        parts / "checkpoint",
        evaluation or parts / "evaluation",
        decision or parts / "decision.json",
        None,
        {},
    )


def test_a_bundle_is_whole_signed_and_loads(bundle: Path, public_key: Path) -> None:
    assert {path.name for path in bundle.iterdir()} == FILES
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert set(manifest["files"]) == FILES - {"manifest.json", "signature.json"}
    assert stat.S_IMODE((bundle / "golden.safetensors").stat().st_mode) == 0o644
    verify_bundle(bundle, public_key)
    assert load_detector(bundle, public_key=public_key).threshold == 0.5


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, parts: Path, built: Path) -> None:
    one, two = built / "bundle", make_bundle(tmp_path / "two", parts)
    for name in FILES - {"signature.json"}:  # ECDSA draws a random number for each signature
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_other_people_s_files_go_along(tmp_path: Path, parts: Path, public_key: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"export")

    def build(name: str) -> Path:
        return build_bundle(
            tmp_path / "out", parts / "checkpoint", parts / "evaluation", parts / "decision.json", None, {},
            {name: tmp_path / "x.onnx"},
        )  # fmt: skip

    folder = build("engines/x.onnx")
    sign_bundle(folder, parts / "keys/rampart.key")
    verify_bundle(folder, public_key)
    assert "engines/x.onnx" in json.loads((folder / "manifest.json").read_text())["files"]
    for name in ("weights.safetensors", "manifest.json", "bom.cdx.json", "detector.onnx", "detector.mar"):
        with pytest.raises(ConfigError, match="expected another name for the extra file"):
            build(name)
    with pytest.raises(ConfigError, match="expected a key such as"):
        build("../x")


def test_a_backbone_that_onnx_cannot_express_is_bundled_without(
    tmp_path: Path, parts: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("expected a backbone that ONNX can express, got x")

    monkeypatch.setattr("dfcore.release.bundle.write_onnx", refuse)
    folder = make_bundle(tmp_path / "out", parts)
    assert {path.name for path in folder.iterdir()} == FILES - {"detector.onnx"}
    assert "no detector.onnx in this bundle: expected a backbone" in caplog.text


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_is_deserialised_of_an_altered_bundle(
    bundle: Path, public_key: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a file was read before the bundle was verified")

    monkeypatch.setattr("dfcore.models.card._read_card", never)
    monkeypatch.setattr("dfcore.models.card.load_file", never)
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"does not hold|does not fit the key|is altered"):
        load_detector(bundle, public_key=public_key)


def test_a_manifest_that_points_outside_is_refused(bundle: Path, parts: Path, public_key: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name in ("../outside", "/etc/hostname", "a/../../outside"):
        manifest["files"] = {**manifest["files"], name: {"sha256": "0" * 64, "bytes": 1}}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    sign_bundle(bundle, parts / "keys/rampart.key")
    with pytest.raises(BundleError, match=r"missing \.\./outside, /etc/hostname"):
        load_detector(bundle, public_key=public_key)


def test_the_card_states_every_claim_with_its_attack(bundle: Path) -> None:
    text = (bundle / "MODEL_CARD.md").read_text()
    _, front, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    results = metadata["model-index"][0]["results"]
    evidence = json.loads((bundle / "evidence.json").read_text())["results"]
    expected = next(
        item["metrics"]["auc"] for item in evidence
        if (item["scenario"], item["corpus"], item["slice"]) == ("pgd20_2_255", "ffpp", "all")
    )  # fmt: skip
    claim = next(item for item in results[0]["metrics"] if "pgd20_2_255" in item["name"])
    assert claim["value"] == round(expected["value"], 4)
    assert claim["name"] == "AUC, pgd20_2_255 (white-box linf 2/255, 20 steps, 1 restarts)"
    row = next(line for line in body.splitlines() if line.startswith("| ffpp | pgd20_2_255 "))
    assert f"{expected['value']:.3f} [{expected['low']:.3f}, {expected['high']:.3f}]" in row
    assert "white-box linf 2/255" in row
    assert "| ffpp | clean | no attack |" in body
    assert "| floor: auc of clean on ffpp | pass |" in body


def test_a_refused_model_is_not_bundled(tmp_path: Path, parts: Path) -> None:
    check_gate(parts / "baseline", load_policy("demo")).save(tmp_path / "no.json")
    with pytest.raises(BundleError, match=r"got no \(floor: auc of pgd20_2_255 on ffpp\)"):
        _build(tmp_path / "out", parts, parts / "baseline", tmp_path / "no.json")
    assert not (tmp_path / "out").exists()


def test_a_decision_about_other_evidence_is_refused(tmp_path: Path, parts: Path) -> None:
    other = write_evaluation(tmp_path / "other", {})
    with pytest.raises(BundleError, match="judged other evidence"):
        _build(tmp_path / "out", parts, other)


def test_evidence_about_other_weights_is_refused(tmp_path: Path, parts: Path) -> None:
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    for name in ("evidence.json", "samples.parquet"):
        (evaluation / name).write_bytes((parts / "evaluation" / name).read_bytes())
    edit(evaluation, model={"name": "x", "digest": "f" * 64, "backbone": "x", "threshold": 0.5})
    check_gate(evaluation, load_policy("demo")).save(tmp_path / "decision.json")
    with pytest.raises(BundleError, match="measured other weights"):
        _build(tmp_path / "out", parts, evaluation, tmp_path / "decision.json")


def test_missing_parts_are_named(tmp_path: Path, parts: Path) -> None:
    with pytest.raises(DataError, match=r"expected .*weights.safetensors.*, found no such file"):
        build_bundle(
            tmp_path / "out", tmp_path, parts / "evaluation", parts / "decision.json", None, {"a": 1}
        )  # fmt: skip
    with pytest.raises(ConfigError, match="drift reference of finite JSON numbers"):
        build_bundle(
            tmp_path / "out", parts / "checkpoint", parts / "evaluation", parts / "decision.json", None,
            {"a": float("nan")},
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_only_a_bundle_is_replaced(tmp_path: Path, parts: Path, bundle: Path) -> None:
    make_bundle(bundle, parts, note="again")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="found something else"):
        _build(precious, parts)
    assert (precious / "thesis.tex").exists()


def test_a_full_disk_leaves_nothing(tmp_path: Path, parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(WorkFailed, match="No space left on device; free space"):
        _build(tmp_path / "out", parts)
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_made_once_and_kept_secret(tmp_path: Path) -> None:
    private = tmp_path / "keys/rampart.key"
    public = ensure_key(private)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes(), public.read_bytes()
    public.unlink()
    assert ensure_key(private) == public
    assert (private.read_bytes(), public.read_bytes()) == before
    assert sorted(os.listdir(private.parent)) == ["rampart.key", "rampart.pub"]  # noqa: PTH208  # hidden ones too


def test_keys_and_folders_that_do_not_fit(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "bad.key").write_text("no key")
    with pytest.raises(ConfigError, match="expected a PEM private key"):
        ensure_key(tmp_path / "bad.key")
    with pytest.raises(ConfigError, match="expected the path of a private key"):
        ensure_key(tmp_path / "x.pub")
    for key in ("bad.key", "none.key"):
        with pytest.raises(ConfigError, match="expected a PEM private key"):
            sign_bundle(bundle, tmp_path / key)
    (bundle / "manifest.json").unlink()
    with pytest.raises(BundleError, match="build the bundle first"):
        sign_bundle(bundle, tmp_path / "none.key")
