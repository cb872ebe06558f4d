from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfcore.errors import BundleError, ConfigError, DataError
from dfcore.models.bundle import fetch, verify_bundle
from dfcore.provenance import sha256_file
from dfcore.release import ensure_key, sign_bundle


@pytest.fixture
def private_key(tmp_path: Path) -> Path:
    ensure_key(tmp_path / "keys/rampart.key")
    return tmp_path / "keys/rampart.key"


@pytest.fixture
def public_key(private_key: Path) -> Path:
    return private_key.with_suffix(".pub")


@pytest.fixture
def bundle(tmp_path: Path, private_key: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"weights")
    (folder / "detector.json").write_text("{}")
    _write_manifest(folder)
    sign_bundle(folder, private_key)
    return folder


def _write_manifest(folder: Path) -> None:
    names = ("weights.safetensors", "detector.json")
    files = {name: {"sha256": sha256_file(folder / name)} for name in names}
    (folder / "manifest.json").write_text(json.dumps({"format_version": 1, "files": files}))


def test_a_whole_bundle_is_fetched(bundle: Path, public_key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch(bundle, public_key) == bundle
    assert fetch(bundle.as_uri(), public_key) == bundle
    monkeypatch.setenv("RAMPART_PUBLIC_KEY", str(public_key))
    assert fetch(str(bundle)) == bundle


def test_a_moved_bundle_still_verifies(bundle: Path, public_key: Path) -> None:
    moved = bundle.rename(bundle.with_name("elsewhere"))
    verify_bundle(moved, public_key)


@pytest.mark.parametrize("name", ["weights.safetensors", "detector.json", "manifest.json"])
def test_an_altered_file_is_named(bundle: Path, public_key: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[0] ^= 1
    (bundle / name).write_bytes(bytes(data))
    with pytest.raises(BundleError, match=f"Hash mismatch for '{name}'"):
        fetch(bundle, public_key)


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json", "signature.json"])
def test_a_missing_file_is_named(bundle: Path, public_key: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=name):
        fetch(bundle, public_key)


@pytest.mark.parametrize("name", ["extra.py", "deep/extra.bin", ".gitignore", ".git/config"])
def test_an_extra_file_is_named(bundle: Path, public_key: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("x")
    with pytest.raises(BundleError, match=name.partition("/")[0]):
        fetch(bundle, public_key)


def test_a_link_is_refused(bundle: Path, public_key: Path, tmp_path: Path) -> None:
    (bundle / "weights.safetensors").rename(tmp_path / "weights")
    (bundle / "weights.safetensors").symlink_to(tmp_path / "weights")
    with pytest.raises(BundleError, match="expected plain files"):
        fetch(bundle, public_key)


def test_another_key_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = ensure_key(tmp_path / "other.key")
    with pytest.raises(BundleError, match="Key mismatch"):
        fetch(bundle, other)


def test_a_forged_hint_does_not_help(bundle: Path, public_key: Path, tmp_path: Path) -> None:
    signature = json.loads((bundle / "signature.json").read_text())
    ensure_key(tmp_path / "other.key")
    sign_bundle(bundle, tmp_path / "other.key")
    forged = json.loads((bundle / "signature.json").read_text())
    forged["verificationMaterial"] = signature["verificationMaterial"]
    (bundle / "signature.json").write_text(json.dumps(forged))
    with pytest.raises(BundleError, match="the signature does not fit the key"):
        fetch(bundle, public_key)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"null", b"\xff\xfe"])
def test_a_broken_signature_is_refused(bundle: Path, public_key: Path, content: bytes) -> None:
    (bundle / "signature.json").write_bytes(content)
    with pytest.raises(BundleError, match="the signature does not hold"):
        fetch(bundle, public_key)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"files": []}', '{"files": {"a": 1}}'])
def test_a_signed_manifest_must_still_be_one(bundle: Path, private_key: Path, content: str) -> None:
    (bundle / "manifest.json").write_text(content)
    sign_bundle(bundle, private_key)
    with pytest.raises(BundleError, match="is no bundle manifest"):
        fetch(bundle, private_key.with_suffix(".pub"))


def test_signature_and_manifest_must_agree(bundle: Path, private_key: Path, public_key: Path) -> None:
    (bundle / "extra").write_text("x")
    sign_bundle(bundle, private_key)
    with pytest.raises(BundleError, match=r"not in manifest\.json: extra"):
        fetch(bundle, public_key)
    (bundle / "extra").unlink()
    (bundle / "detector.json").write_text('{"other": 1}')
    sign_bundle(bundle, private_key)
    with pytest.raises(BundleError, match=r"detector\.json is altered: expected sha256"):
        fetch(bundle, public_key)
    (bundle / "detector.json").unlink()
    sign_bundle(bundle, private_key)
    with pytest.raises(BundleError, match=r"missing detector\.json"):
        fetch(bundle, public_key)


def test_nothing_is_trusted_without_a_key(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a public key to verify the bundle with"):
        fetch(bundle)
    with pytest.raises(ConfigError, match="expected a PEM public key"):
        fetch(bundle, tmp_path / "none.pub")
    published = tmp_path / "store/models/faces/versions/v0001-00000000"
    published.parent.mkdir(parents=True)
    bundle.rename(published)
    with pytest.raises(ConfigError, match=r"expected a public key at .*keys/rampart\.pub"):
        fetch(published)


def test_a_training_output_needs_no_signature(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="found neither"):
        fetch(tmp_path)
    (tmp_path / "detector.json").write_text("{}")
    assert fetch(tmp_path) == tmp_path
    with pytest.raises(DataError, match="found no folder"):
        fetch(tmp_path / "none")


def test_a_published_version_can_t_pass_as_a_training_output(tmp_path: Path) -> None:
    folder = tmp_path / "models/faces/versions/v0001-00000000"
    folder.mkdir(parents=True)
    (folder / "detector.json").write_text("{}")
    with pytest.raises(BundleError, match="found neither"):
        fetch(folder)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gs://bucket/x", "expected a folder, file://"),
        ("registry://faces", "expected registry://NAME@CHANNEL"),
        ("registry://faces@stable", "needs RAMPART_REGISTRY"),
    ],
)
def test_addresses_that_do_not_fit(uri: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAMPART_REGISTRY", raising=False)
    with pytest.raises(ConfigError, match=message):
        fetch(uri)


@pytest.mark.parametrize("reference", ["../x@stable", "faces@../x", "a/b@stable"])
def test_names_can_t_leave_the_registry(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAMPART_REGISTRY", str(tmp_path))
    with pytest.raises(ConfigError, match="of letters, digits"):
        fetch(f"registry://{reference}")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"version": "../x", "manifest_sha256": "0"}'])
def test_a_broken_pointer_is_named(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAMPART_REGISTRY", str(tmp_path))
    (tmp_path / "models/faces/channels").mkdir(parents=True)
    (tmp_path / "models/faces/channels/stable.json").write_text(content)
    with pytest.raises((BundleError, ConfigError), match=r"holds no pointer|of letters, digits"):
        fetch("registry://faces@stable")
