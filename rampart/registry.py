"""rampart registry init | sign | publish | promote | rollback | list | show | verify | log | collect."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rampart.output import Json, emit

if TYPE_CHECKING:
    from dfcore.release import Registry

app = typer.Typer(help="Published versions and the channels that point at them.", no_args_is_help=True)

Store = Annotated[
    str, typer.Option("--store", envvar="RAMPART_REGISTRY", help="file://… or s3://… of the registry.")
]
Name = Annotated[str, typer.Argument(help="The model's name.")]
Version = Annotated[str, typer.Argument(help="A published version.")]
Target = Annotated[str, typer.Argument(help="A published version, or a channel.")]
Channel = Annotated[str, typer.Option(help="The channel.")]
Why = Annotated[str, typer.Option(help="The reason, kept in the audit log.")]
PublicKey = Annotated[
    Path,
    typer.Option(help="Who signed: a PEM public key, PEM certificates, or JSON with identity and issuer."),
]

_AGE = re.compile(r"(\d+)(m|h|d)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@app.command()
def init(
    store: Store,
    keys: Annotated[Path, typer.Option(help="Folder for writer.env and reader.env (mode 0600).")],
    data: Annotated[
        list[str] | None, typer.Option(help="A further bucket for pipelines; may be repeated.")
    ] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="Give existing users new keys.")] = False,
    as_json: Json = False,
) -> None:
    """Make a MinIO's buckets, versioning, lifecycle and users; needs the administrator's keys."""
    from dfcore.release import provision_minio

    found = provision_minio(store, keys, data or (), rotate=rotate)
    lines = [f"buckets {', '.join(found.buckets)} at {found.endpoint}"]
    lines += [f"user {user.name}: {_where(user.keys)}" for user in found.users]
    emit(_plain(found), as_json, "\n".join(lines))


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    private_key: Annotated[Path | None, typer.Option(help="An offline key: PEM, elliptic curve.")] = None,
    certificate: Annotated[
        list[Path] | None, typer.Option(help="The key's certificate, then those up to the authority's.")
    ] = None,
    sigstore: Annotated[bool, typer.Option("--sigstore", help="Keyless, instead of a key.")] = False,
    identity_token: Annotated[Path | None, typer.Option(help="File with sigstore's OpenID token.")] = None,
    trust_config: Annotated[Path | None, typer.Option(help="A private sigstore's configuration.")] = None,
    as_json: Json = False,
) -> None:
    """Sign a bundle again: another key, a certificate, or sigstore; then publish it."""
    from dfcore.errors import ConfigError
    from dfcore.release import sign_bundle, sign_with_sigstore

    if (private_key is None) != sigstore or (certificate and private_key is None):
        raise ConfigError("expected either --private-key (maybe with --certificate) or --sigstore")
    if private_key is None:
        path = sign_with_sigstore(bundle, identity_token, trust_config)
    else:
        path = sign_bundle(bundle, private_key, certificate or ())
    emit({"signature": str(path)}, as_json, f"signed: {path}")


@app.command()
def publish(
    name: Name,
    bundle: Annotated[Path, typer.Argument(help="A signed bundle's folder.")],
    store: Store,
    public_key: PublicKey,
    why: Why = "published by hand",
    as_json: Json = False,
) -> None:
    """Publish a signed bundle as a new version; no channel moves."""
    version = _open(store).publish(name, bundle, public_key=public_key, who=_who(), why=why)
    emit({"name": name, "version": version}, as_json, f"published {name} {version}")


@app.command()
def promote(
    name: Name,
    version: Version,
    store: Store,
    why: Why,
    channel: Channel = "production",
    if_current: Annotated[
        str | None, typer.Option(help="Only if the channel still points at this version.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Point a channel at a version."""
    _open(store).promote(name, version, channel, who=_who(), why=why, current=if_current)
    emit(
        {"name": name, "version": version, "channel": channel}, as_json, f"{name}@{channel} is now {version}"
    )


@app.command()
def rollback(
    name: Name, store: Store, why: Why, channel: Channel = "production", as_json: Json = False
) -> None:
    """Point a channel at the version that it served before."""
    version = _open(store).rollback(name, channel, who=_who(), why=why)
    emit(
        {"name": name, "version": version, "channel": channel}, as_json, f"{name}@{channel} is now {version}"
    )


@app.command("list")
def list_(
    store: Store, name: Annotated[str | None, typer.Argument(help="One model; default: all.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """List models, versions and channels."""
    emit(_plain(_open(store).list(name)), as_json)


@app.command()
def show(name: Name, version: Target, store: Store, as_json: Json = False) -> None:
    """Show a version's manifest."""
    emit(_plain(_open(store).show(name, version)), as_json)


@app.command()
def verify(
    name: Name,
    version: Target,
    store: Store,
    public_key: Annotated[
        Path | None, typer.Option(help="Who must have signed it; default: whom the registry trusts.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check signature and digests of a version as it lies in the store; exit code 1 if one does not hold."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="rampart-verify-") as cache:  # a copy from before may be whole
        _open(store).verify(name, version, public_key, cache=Path(cache))
    emit({"name": name, "version": version, "valid": True}, as_json, f"{name} {version} is whole and signed")


@app.command()
def log(name: Name, store: Store, as_json: Json = False) -> None:
    """Show who moved which channel, when and why."""
    emit(_plain(_open(store).log(name)), as_json)


@app.command()
def collect(
    store: Store,
    older_than: Annotated[str, typer.Option(help="What is younger stays: 90m, 24h, 7d.")] = "24h",
    name: Annotated[str | None, typer.Option(help="One model; default: all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove versions that neither a channel nor the log names, and unfinished uploads."""
    found = _open(store).collect(_age(older_than), name=name, dry_run=dry_run)
    lines = [f"{item.kind} {item.what}, {item.bytes} bytes, of {item.modified:%F %R}" for item in found]
    done = "would remove" if dry_run else "removed"
    emit(_plain(found), as_json, "\n".join([f"{done} {len(found)}", *lines]))


def _open(store: str) -> Registry:
    from dfcore.release import Registry

    return Registry(store)


def _age(text: str) -> timedelta:
    from dfcore.errors import ConfigError

    found = _AGE.fullmatch(text)
    if not found:
        raise ConfigError(f"expected an age such as 90m, 24h or 7d, got {text!r}")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _where(keys: Path | None) -> str:
    return (
        "was there, its keys are unchanged (--rotate makes new ones)" if keys is None else f"keys in {keys}"
    )


def _who() -> str:
    import getpass

    return getpass.getuser()


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
