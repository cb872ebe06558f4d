"""Sign a bundle: with an offline key, with a certificate, or keyless through sigstore."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfcore.errors import BundleError, ConfigError, WorkFailed
from dfcore.models.bundle import MANIFEST, SIGNATURE, list_files
from dfcore.storage import write_atomic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

__all__ = ["ensure_key", "sign_bundle", "sign_with_sigstore"]

_CURVES = ("secp256r1", "secp384r1", "secp521r1")  # what model-signing signs with


def sign_bundle(folder: Path, private_key: Path, certificates: Sequence[Path] = ()) -> Path:
    """Sign every file of a bundle, the manifest among them, with an offline key.

    Args:
        folder: a bundle with its manifest.
        private_key: PEM, elliptic curve; see `ensure_key`.
        certificates: the key's PEM certificate, then those between it and the authority; without any, the
            public key itself is what consumers trust.

    Returns:
        The path of signature.json.

    Raises:
        BundleError: there is no manifest.
        ConfigError: the key or a certificate can't be used.
    """
    from model_signing import signing  # 1.5 seconds of import

    _check_built(folder)
    _read_key(private_key)
    config = signing.Config()  # type: ignore[no-untyped-call]  # the library leaves it bare
    try:
        if certificates:
            signer = config.use_certificate_signer(
                private_key=private_key, signing_certificate=certificates[0],
                # the library wants a chain; one that is only the certificate adds nothing
                certificate_chain=certificates[1:] or certificates[:1],
            )  # fmt: skip
        else:
            signer = config.use_elliptic_key_signer(private_key=private_key)
    except (OSError, ValueError, TypeError) as error:
        wanted = f"a PEM private key at {private_key}" + (" and its certificates" if certificates else "")
        raise ConfigError(f"expected {wanted}, got: {error}") from error
    return _sign(folder, signer)


def sign_with_sigstore(
    folder: Path, identity_token: Path | None = None, trust_config: Path | None = None
) -> Path:
    """Sign every file of a bundle with a short-lived certificate of sigstore.

    Args:
        folder: a bundle with its manifest.
        identity_token: file with an OpenID Connect token, such as a pod's projected one; without it, what
            the machine offers (CI, workload identity).
        trust_config: sigstore's ClientTrustConfig of a private instance; None means the public one.

    Returns:
        The path of signature.json.

    Raises:
        BundleError: there is no manifest.
        ConfigError: the token or the configuration can't be read.
        WorkFailed: sigstore gave no certificate for it.
    """
    from model_signing import signing
    from sigstore.errors import Error as SigstoreError
    from sigstore.oidc import IssuerError

    _check_built(folder)
    config = signing.Config()  # type: ignore[no-untyped-call]  # the library leaves it bare
    try:
        token = identity_token.read_text(encoding="utf-8").strip() if identity_token else None
        if trust_config is not None:
            trust_config.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"expected a token and a trust configuration that can be read, got: {error}"
        ) from error
    try:
        signer = config.use_sigstore_signer(
            identity_token=token, use_ambient_credentials=token is None, trust_config=trust_config
        )
        return _sign(folder, signer)
    except (SigstoreError, IssuerError, OSError, ValueError) as error:
        raise WorkFailed(
            f"expected a certificate of sigstore, got: {_brief(error)}; check the network and the token, "
            "or sign with an offline key"
        ) from error


def _brief(error: Exception) -> str:
    """Return the kind and the first line: what follows may quote the token."""
    return f"{type(error).__name__} {str(error).partition(chr(10))[0][:80]}".strip()


def _check_built(folder: Path) -> None:
    if MANIFEST not in list_files(folder):
        raise BundleError(f"expected {MANIFEST} in {folder}, found none; build the bundle first")


def _sign(folder: Path, signer: Any) -> Path:
    from model_signing import hashing

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
        The path of the public key. Where nothing can be written beside the private one, as in a mounted
        Secret that holds it alone, the public key lies in a temporary folder that goes with the process.

    Raises:
        ConfigError: what is at `path` is no private key that can sign, or none is there and none can be made.
    """
    from cryptography.hazmat.primitives import serialization

    if path.suffix == ".pub":
        raise ConfigError(
            f"expected the path of a private key, got {path}; the public one is written beside it"
        )
    try:
        if not path.exists():
            _make_key(path)
    except OSError as error:
        raise ConfigError(
            f"expected a PEM private key at {path}, found none, and none can be made there: {error.strerror}"
        ) from error
    pem = _read_key(path).public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    public = path.with_suffix(".pub")
    try:
        if public.is_file() and public.read_bytes() == pem:
            return public
        write_atomic(public, pem)
    except (OSError, WorkFailed):
        folder = Path(tempfile.mkdtemp(prefix="rampart-key-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        public = folder / public.name
        write_atomic(public, pem)
    return public


def _read_key(path: Path) -> EllipticCurvePrivateKey:
    """Return a private key that model-signing can sign with."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"expected a PEM private key at {path}, got: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        kind = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else type(key).__name__
        raise ConfigError(
            f"expected an elliptic-curve key (P-256, P-384, P-521) at {path}, got {kind}; make one with "
            "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
        )
    return key


def _make_key(path: Path) -> None:
    """Write a new secret key whole unless another process was first."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".key-", dir=path.parent) as name:
        staged = Path(name) / "key"
        write_atomic(staged, pem, mode=0o600)
        try:
            path.hardlink_to(staged)
        except FileExistsError:
            return  # the other process's key is as good
