"""Who must have signed a bundle, and whether they did.

The file that names them is one of: a PEM public key (offline key mode), PEM certificates of an authority
(certificate mode), or JSON with `identity`, `issuer` and maybe `trust_config` (sigstore mode).
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from dfcore.config import Config
from dfcore.errors import BundleError, ConfigError, WorkFailed

__all__ = ["SigstoreIdentity", "verify_signature"]


class SigstoreIdentity(Config):
    """A keyless signer.

    Attributes:
        identity: mail address or URI in the signing certificate.
        issuer: the OpenID Connect issuer that vouched for it.
        trust_config: sigstore's ClientTrustConfig, for a private instance or for machines without internet;
            None asks the public one.
    """

    identity: str
    issuer: str
    trust_config: dict[str, Any] | None = None


def verify_signature(folder: Path, signature: str, trust: Path) -> None:
    """Check that the trusted signer signed every file of a folder.

    Args:
        folder: the bundle.
        signature: the signature's file in it, which is not itself signed.
        trust: see the module.

    Raises:
        BundleError: no such signature, or a file that it does not cover or that was altered.
        ConfigError: the trust file can't be used.
        WorkFailed: sigstore's own trust root can't be fetched.
    """
    from cryptography.exceptions import InvalidSignature
    from model_signing import hashing  # 1.5 seconds of import
    from OpenSSL.crypto import X509StoreContextError
    from sigstore.errors import Error as SigstoreError

    hashes = hashing.Config()  # type: ignore[no-untyped-call]  # the library leaves it bare
    hashes.set_ignored_paths(paths=[signature], ignore_git_paths=False)
    verifier = _verifier(trust).set_hashing_config(hashes)
    try:
        verifier.verify(folder, folder / signature)
    except InvalidSignature as error:
        raise BundleError(f"{folder}: the signature does not fit the key {trust}; do not use it") from error
    except (
        ValueError, LookupError, TypeError, AttributeError, OSError, X509StoreContextError, SigstoreError,
    ) as error:  # fmt: skip
        # The library's text lists names and raw digests; keep the names.
        detail = re.sub(r": Expected 'Digest.*?\)', Actual 'Digest.*?\)'", "", str(error))
        raise BundleError(
            f"{folder}: the signature does not hold ({detail or type(error).__name__}); "
            "the bundle was altered or another signer signed it; do not use it"
        ) from error


def _verifier(trust: Path) -> Any:
    """Choose the mode by what the trust file holds, never by what the bundle says about itself."""
    from model_signing import verifying

    config = verifying.Config()  # type: ignore[no-untyped-call]  # the library leaves it bare
    try:
        data = trust.read_bytes()
        if data.lstrip().startswith(b"{"):
            return _sigstore_verifier(config, SigstoreIdentity.parse(json.loads(data), str(trust)))
        if b"-----BEGIN CERTIFICATE-----" in data:
            return config.use_certificate_verifier(certificate_chain=[trust])
        return config.use_elliptic_key_verifier(public_key=trust)
    except ConfigError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"expected a PEM public key, PEM certificates or a sigstore identity at {trust}, got: {error}"
        ) from error


def _sigstore_verifier(config: Any, who: SigstoreIdentity) -> Any:
    from sigstore.errors import Error as SigstoreError

    with tempfile.TemporaryDirectory(prefix="rampart-sigstore-") as name:
        path = None
        if who.trust_config is not None:
            path = Path(name) / "trust.json"
            path.write_text(json.dumps(who.trust_config), encoding="utf-8")
        try:
            return config.use_sigstore_verifier(
                identity=who.identity, oidc_issuer=who.issuer, trust_config=path
            )
        except SigstoreError as error:
            raise WorkFailed(
                f"expected sigstore's trust root, got: {error}; check the network, or give trust_config"
            ) from error
