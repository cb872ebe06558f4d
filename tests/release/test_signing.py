"""Three modes of signing; what consumers trust decides which of them counts."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from dfcore.errors import BundleError, ConfigError, WorkFailed
from dfcore.models.bundle import fetch
from dfcore.release import Registry, ensure_key, sign_bundle, sign_with_sigstore, verify_bundle
from tests.certificates import Made, make_certificate

STAGING = "https%3A%2F%2Ftuf-repo-cdn.sigstage.dev"


@pytest.fixture
def authority(tmp_path: Path) -> Made:
    return make_certificate(tmp_path / "authority", None)


@pytest.fixture
def signer(tmp_path: Path, authority: Made) -> Made:
    return make_certificate(tmp_path / "signer", authority)


@pytest.fixture
def trust_config(tmp_path: Path) -> Path:
    """Sigstore's own staging instance, as its package ships it: nothing is fetched."""
    store = files("sigstore") / "_store" / STAGING
    path = tmp_path / "trust_config.json"
    document = {
        "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
        "trustedRoot": json.loads((store / "trusted_root.json").read_text()),
        "signingConfig": json.loads((store / "signing_config.v0.2.json").read_text()),
    }
    path.write_text(json.dumps(document))
    return path


def test_a_certificate_of_the_authority_is_trusted(
    bundle: Path, authority: Made, signer: Made, public_key: Path, tmp_path: Path
) -> None:
    sign_bundle(bundle, signer.key, [signer.certificate])
    verify_bundle(bundle, authority.certificate)
    with pytest.raises(BundleError, match="does not hold"):
        verify_bundle(bundle, public_key)
    other = make_certificate(tmp_path / "other", None)
    with pytest.raises(BundleError, match="does not hold"):
        verify_bundle(bundle, other.certificate)
    (bundle / "reference.json").write_text("{}")
    with pytest.raises(BundleError, match=r"reference\.json"):
        verify_bundle(bundle, authority.certificate)


def test_a_key_signature_is_none_of_the_authority_s(bundle: Path, authority: Made) -> None:
    with pytest.raises(BundleError, match="does not hold"):
        verify_bundle(bundle, authority.certificate)


def test_a_registry_trusts_an_authority(
    bundle: Path, authority: Made, signer: Made, tmp_path: Path, public_key: Path
) -> None:
    sign_bundle(bundle, signer.key, [signer.certificate])
    registry = Registry(tmp_path / "registry")
    version = registry.publish("faces", bundle, public_key=authority.certificate)
    registry.promote("faces", version, "stable", "ann", "go")
    assert fetch(registry.show("faces", "stable")["uri"]).is_dir()
    with pytest.raises(BundleError, match="does not hold"):
        registry.publish("faces", bundle, public_key=public_key)


def test_a_certificate_of_another_key_is_refused(bundle: Path, authority: Made, signer: Made) -> None:
    with pytest.raises(ConfigError, match=r"expected a PEM private key at .* and its certificates"):
        sign_bundle(bundle, authority.key, [signer.certificate])


def test_a_sigstore_identity_refuses_other_signatures(
    bundle: Path, trust_config: Path, tmp_path: Path
) -> None:
    document = {
        "identity": "ci@example.org", "issuer": "https://accounts.example.org",
        "trust_config": json.loads(trust_config.read_text()),
    }  # fmt: skip
    (tmp_path / "identity.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="does not hold"):
        verify_bundle(bundle, tmp_path / "identity.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"identity": "a@b"}', "issuer: Field required"),
        ('{"identity": "a@b", "issuer": "c", "provider": "d"}', "unknown key 'provider'"),
        ("{", "expected a PEM public key, PEM certificates or a sigstore identity"),
        ("-----BEGIN CERTIFICATE-----\nx", "expected a PEM public key, PEM certificates"),
        ("nothing", "expected a PEM public key, PEM certificates"),
    ],
)
def test_trust_files_that_do_not_fit(bundle: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "trust").write_text(content)
    with pytest.raises(ConfigError, match=message):
        verify_bundle(bundle, tmp_path / "trust")


def test_a_broken_sigstore_root_is_named(bundle: Path, tmp_path: Path) -> None:
    document: dict[str, Any] = {"identity": "a@b", "issuer": "c", "trust_config": {"mediaType": "x"}}
    (tmp_path / "trust").write_text(json.dumps(document))
    with pytest.raises((ConfigError, WorkFailed), match="expected"):
        verify_bundle(bundle, tmp_path / "trust")


def test_keyless_signing_needs_a_real_token(bundle: Path, trust_config: Path, tmp_path: Path) -> None:
    before = (bundle / "signature.json").read_bytes()
    (tmp_path / "token").write_text("eyJ.secret-token.x")
    with pytest.raises(
        WorkFailed, match=r"expected a certificate of sigstore, got: .* offline key"
    ) as caught:
        sign_with_sigstore(bundle, tmp_path / "token", trust_config)
    assert "secret-token" not in str(caught.value)
    with pytest.raises(ConfigError, match="expected a token and a trust configuration that can be read"):
        sign_with_sigstore(bundle, tmp_path / "none", trust_config)
    with pytest.raises(ConfigError, match="expected a token and a trust configuration that can be read"):
        sign_with_sigstore(bundle, tmp_path / "token", tmp_path / "none")
    assert (bundle / "signature.json").read_bytes() == before


def test_an_unbuilt_folder_is_not_signed(bundle: Path, tmp_path: Path) -> None:
    ensure_key(tmp_path / "a.key")
    (bundle / "manifest.json").unlink()
    with pytest.raises(BundleError, match="build the bundle first"):
        sign_with_sigstore(bundle)
    shutil.rmtree(bundle)
    bundle.mkdir()
    with pytest.raises(BundleError, match="build the bundle first"):
        sign_bundle(bundle, tmp_path / "a.key")


def test_a_private_key_alone_where_nothing_can_be_written(
    bundle: Path, parts: Path, public_key: Path, tmp_path: Path
) -> None:
    """As a mounted Secret; here a folder in which not even root can make a file."""
    with (parts / "keys/rampart.key").open("rb") as stream:
        private = Path(f"/dev/fd/{stream.fileno()}")
        derived = ensure_key(private)
        sign_bundle(bundle, private)
    assert derived.read_bytes() == public_key.read_bytes()
    version = Registry(tmp_path / "registry").publish("faces", bundle, public_key=derived)
    assert Registry(tmp_path / "registry").verify("faces", version, public_key).is_dir()


def test_a_stale_public_key_beside_it_is_replaced(parts: Path, tmp_path: Path) -> None:
    shutil.copy(parts / "keys/rampart.key", tmp_path)
    (tmp_path / "rampart.pub").write_text("of the key before")
    assert ensure_key(tmp_path / "rampart.key") == tmp_path / "rampart.pub"
    assert (tmp_path / "rampart.pub").read_bytes() == (parts / "keys/rampart.pub").read_bytes()


def test_no_key_and_no_place_for_one() -> None:
    with pytest.raises(ConfigError, match="found none, and none can be made there"):
        ensure_key(Path("/proc/none/rampart.key"))


@pytest.mark.parametrize(
    ("key", "password", "message"),
    [
        (rsa.generate_private_key(65537, 2048), None, r"expected an elliptic-curve key .* got RSAPrivateKey"),
        (ed25519.Ed25519PrivateKey.generate(), None, "got Ed25519PrivateKey; make one with openssl"),
        (ec.generate_private_key(ec.SECP256K1()), None, "got secp256k1; make one"),
        (ec.generate_private_key(ec.SECP256R1()), b"secret", "expected a PEM private key at .* encrypted"),
    ],
    ids=["rsa", "ed25519", "secp256k1", "passphrase"],
)
def test_a_key_of_a_wrong_kind_is_refused(
    bundle: Path, tmp_path: Path, key: Any, password: bytes | None, message: str
) -> None:
    secrecy = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secrecy)
    path = tmp_path / "wrong.key"
    path.write_bytes(pem)
    for use in (lambda: ensure_key(path), lambda: sign_bundle(bundle, path)):
        with pytest.raises(ConfigError, match=message):
            use()
    assert not path.with_suffix(".pub").exists()
