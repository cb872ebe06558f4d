"""Runs on a KFP server, through the command line and real HTTP: accepted, watched, refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dfcore.errors import ConfigError, DataError, RampartError, WorkFailed
from pipelines.endpoint import Credentials, Endpoint
from pipelines.platform import load_platform
from pipelines.submit import logs, read_run, schedule, submit, wait
from rampart import app
from tests.pipelines.kfp_server import KfpServer, serve_kfp

VALUES = Path(__file__).with_name("values.yaml")
_ROOTS = {"data_root": "/data/ffpp", "cross_root": "/data/celebdf"}
_OPTIONS = ["--set", "data_root=/data/ffpp", "--set", "cross_root=/data/celebdf", "--every", "0.01"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    for name in ("KUBERNETES_SERVICE_HOST", "KFP_ENDPOINT", "KFP_TOKEN_FILE", "KFP_USER", "KFP_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    with serve_kfp() as found:
        yield found


def _task(name: str, state: str, pod: str | None = None, error: str = "") -> dict[str, Any]:
    children = [{"pod_name": pod}] if pod else []
    return {"display_name": name, "state": state, "child_tasks": children, "error": {"message": error}}


def _call(server: KfpServer, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run a command; its own errors come out as they do from `rampart`."""
    found = CliRunner().invoke(app, ["pipeline", *arguments, "--endpoint", server.address, "--json"])
    if isinstance(found.exception, RampartError):
        raise found.exception
    return found.exit_code, json.loads(found.stdout or "{}")


def test_submit_sends_the_placed_pipeline_and_waits(server: KfpServer) -> None:
    server.states = ["PENDING", "RUNNING", "SUCCEEDED"]
    server.tasks = [_task("publish-bundle", "SUCCEEDED", "pod-1")]
    server.away = 2  # a server that restarts is asked again
    code, found = _call(server, "submit", "--values", str(VALUES), *_OPTIONS)
    assert (code, found["verdict"], found["state"]) == (0, "done", "SUCCEEDED")
    (run,) = server.runs
    assert run["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "train-and-release"
    assert "kubernetes" in run["pipeline_spec"]["platform_spec"]["platforms"]
    assert run["runtime_config"] == {"parameters": _ROOTS, "pipeline_root": "s3://artifacts/rampart"}
    assert run["service_account"] == "pipeline-runner"
    assert server.experiments == [
        {"experiment_id": "experiment-0", "display_name": "rampart", "namespace": "team-faces"}
    ]
    _call(server, "submit", "--values", str(VALUES), *_OPTIONS, "--no-wait")
    assert len(server.experiments) == 1
    assert [run["experiment_id"] for run in server.runs] == ["experiment-0"] * 2


@pytest.mark.parametrize(
    ("states", "tasks", "code", "verdict"),
    [
        (["SUCCEEDED"], [_task("reject-model", "SUCCEEDED", "p")], 1, "refused"),
        (["FAILED"], [_task("train robust", "FAILED", "p", "OOMKilled")], 3, "failed"),
        (["CANCELED"], [], 3, "failed"),
    ],
)
def test_the_exit_code_tells_the_outcome(
    server: KfpServer, states: list[str], tasks: list[dict[str, Any]], code: int, verdict: str
) -> None:
    server.states, server.tasks = states, tasks
    found_code, found = _call(server, "submit", "--values", str(VALUES), *_OPTIONS)
    assert (found_code, found["verdict"]) == (code, verdict)
    assert _call(server, "status", found["run"])[0] == code


def test_an_audit_that_finds_a_regression_is_refused(server: KfpServer) -> None:
    server.states = ["FAILED"]
    server.tasks = [_task("audit", "SUCCEEDED", "p"), _task("flag regression", "FAILED", "q")]
    platform = load_platform(VALUES)
    endpoint = Endpoint(server.address, Credentials())
    run = submit(endpoint, "audit_robustness", platform, {"data_root": "/data/fresh"})
    assert read_run(endpoint, run).verdict == "refused"


def test_schedule_never_overlaps(server: KfpServer) -> None:
    options = ["--cron", "0 0 3 * * 1", "--set", "data_root=/data/fresh"]
    assert _call(server, "schedule", "--values", str(VALUES), *options)[0] == 0
    (made,) = server.recurring
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == ("1", True, "ENABLE")
    with pytest.raises(ConfigError, match="six fields"):
        schedule(
            Endpoint(server.address, Credentials()), "audit_robustness", load_platform(VALUES), {}, "@daily"
        )


def test_logs_of_one_step(server: KfpServer) -> None:
    server.tasks = [_task("train robust", "RUNNING", "pod-a"), _task("deploy", "PENDING", "pod-b")]
    endpoint = Endpoint(server.address, Credentials())
    run = submit(endpoint, "train_and_release", load_platform(VALUES), _ROOTS)
    assert list(logs(endpoint, run, "train_robust")) == [("train robust", "log of pod-a\n")]
    assert len(list(logs(endpoint, run))) == 2
    with pytest.raises(ConfigError, match="unknown step"):
        list(logs(endpoint, run, "bake"))
    shown = CliRunner().invoke(app, ["pipeline", "logs", run, "--endpoint", server.address])
    assert "==> deploy\nlog of pod-b" in shown.stdout


def test_wrong_parameters_are_refused_before_anything_is_sent(server: KfpServer) -> None:
    with pytest.raises(ConfigError, match="cross_root, data_root"):
        _call(server, "submit", "--values", str(VALUES))
    with pytest.raises(ConfigError, match="did you mean 'data_root'"):
        _call(server, "submit", "--values", str(VALUES), "--set", "data_rot=/x")
    assert not [request for request in server.asked if request.startswith("POST")]


def test_a_token_is_read_each_time(server: KfpServer, tmp_path: Path) -> None:
    server.token = "first"
    path = tmp_path / "token"
    path.write_text("first\n")
    endpoint = Endpoint(server.address, Credentials(token_file=path))
    run = submit(endpoint, "train_and_release", load_platform(VALUES), _ROOTS)
    server.token = "second"
    with pytest.raises(ConfigError, match="no valid token"):
        read_run(endpoint, run)
    path.write_text("second\n")
    assert read_run(endpoint, run).state == "SUCCEEDED"
    path.unlink()
    with pytest.raises(ConfigError, match="expected a token in"):
        read_run(endpoint, run)


def test_a_pods_own_token_and_server_are_found(
    server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text("projected")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(path))
    assert Credentials().token() == "projected"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert Endpoint(None, Credentials()).address == "http://ml-pipeline.kubeflow.svc.cluster.local:8888"


def test_dex_lets_in_who_knows_the_password(server: KfpServer) -> None:
    server.dex = ("user@example.com", "right")
    inside = Endpoint(server.address, Credentials(user="user@example.com", password="right"))
    assert submit(inside, "train_and_release", load_platform(VALUES), _ROOTS) == "run-0"
    with pytest.raises(ConfigError, match=r"expected Dex to let user@example\.com in"):
        read_run(Endpoint(server.address, Credentials(user="user@example.com", password="wrong")), "run-0")
    with pytest.raises(ConfigError, match="got sent to /dex/auth/local"):
        read_run(Endpoint(server.address, Credentials()), "run-0")
    with pytest.raises(ConfigError, match="set KFP_PASSWORD"):
        Credentials(user="user@example.com")


def test_a_server_that_refuses_is_told_plainly(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.endpoint.time.sleep", lambda _: None)
    endpoint = Endpoint(server.address, Credentials())
    with pytest.raises(DataError, match="run nothing not found"):
        read_run(endpoint, "nothing")
    for status, kind, message in (
        (403, ConfigError, "not authorized; give another token"), (400, ConfigError, "HTTP 400"),
        (500, WorkFailed, "HTTP 500"), (503, WorkFailed, "HTTP 503"),
    ):  # fmt: skip
        server.refuse = status
        with pytest.raises(kind, match=message):
            read_run(endpoint, "run-0")
    with pytest.raises(ConfigError, match="expected the KFP API"):
        Endpoint(f"{server.address}/ui", Credentials()).get("x")
    with pytest.raises(WorkFailed, match="check the address"):
        read_run(Endpoint("http://127.0.0.1:9", Credentials()), "run-0")
    with pytest.raises(WorkFailed, match="check the address"):
        read_run(Endpoint("http://127.0.0.1:9", Credentials(user="u", password="p")), "run-0")
    with pytest.raises(ConfigError, match="expected a KFP server such as"):
        Endpoint("kubeflow.example.com", Credentials())


def test_waiting_has_an_end(server: KfpServer) -> None:
    server.states = ["RUNNING"]
    endpoint = Endpoint(server.address, Credentials())
    run = submit(endpoint, "train_and_release", load_platform(VALUES), _ROOTS)
    with pytest.raises(WorkFailed, match="it goes on"):
        wait(endpoint, run, lambda _: None, seconds=0.05, every=0.01)
