"""rampart registry publish | promote | rollback | list | show | verify | log."""

from __future__ import annotations

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
Channel = Annotated[str, typer.Option(help="The channel.")]
Why = Annotated[str, typer.Option(help="The reason, kept in the audit log.")]


@app.command()
def publish(
    name: Name,
    bundle: Annotated[Path, typer.Argument(help="A signed bundle's folder.")],
    store: Store,
    public_key: Annotated[Path, typer.Option(help="What the bundle was signed with.")],
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
    as_json: Json = False,
) -> None:
    """Point a channel at a version."""
    _open(store).promote(name, version, channel, who=_who(), why=why)
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
def show(name: Name, version: Version, store: Store, as_json: Json = False) -> None:
    """Show a version's manifest."""
    emit(_plain(_open(store).show(name, version)), as_json)


@app.command()
def verify(name: Name, version: Version, store: Store, as_json: Json = False) -> None:
    """Check a version's signature and every file's digest; exit code 1 if one does not hold."""
    _open(store).verify(name, version)
    emit({"name": name, "version": version, "valid": True}, as_json, f"{name} {version} is whole and signed")


@app.command()
def log(name: Name, store: Store, as_json: Json = False) -> None:
    """Show who moved which channel, when and why."""
    emit(_plain(_open(store).log(name)), as_json)


def _open(store: str) -> Registry:
    from dfcore.release import Registry

    return Registry(store)


def _who() -> str:
    import getpass

    return getpass.getuser()


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
