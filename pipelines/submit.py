"""Runs on a KFP server: start one, have one started again and again, watch it, read its logs."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from dfcore.config import suggest
from dfcore.errors import ConfigError, WorkFailed
from pipelines.compile import build
from pipelines.endpoint import Endpoint
from pipelines.platform import Platform

__all__ = ["Run", "Step", "Verdict", "logs", "read_run", "schedule", "submit", "wait"]

_API = "apis/v2beta1"
_ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})
# the one step of each pipeline that tells whether its question was answered with yes
_RELEASES, _FLAGS = "publish-bundle", "flag-regression"

Verdict = Literal["running", "done", "refused", "failed"]


class Step(NamedTuple):
    """One step of a run: its name, KFP's state, its pods, and what went wrong."""

    name: str
    state: str
    pods: tuple[str, ...]
    error: str


class Run(NamedTuple):
    """Where a run stands."""

    id: str
    name: str
    pipeline: str
    state: str
    steps: tuple[Step, ...]
    error: str

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in _ENDED

    @property
    def verdict(self) -> Verdict:
        """What it came to: "refused" if the gate stopped the release, or an audit found a regression."""
        if not self.ended:
            return "running"
        succeeded = {_plain(step.name) for step in self.steps if step.state == "SUCCEEDED"}
        failed = {_plain(step.name) for step in self.steps if step.state == "FAILED"}
        if self.state != "SUCCEEDED":
            return "refused" if _FLAGS in failed else "failed"
        if self.pipeline == "train-and-release" and _RELEASES not in succeeded:
            return "refused"
        return "done"


def submit(endpoint: Endpoint, name: str, platform: Platform, arguments: Mapping[str, Any]) -> str:
    """Start a run.

    Args:
        endpoint: the server.
        name: of the pipeline.
        platform: where the steps run.
        arguments: the pipeline's parameters, on top of the platform's.

    Returns:
        The run's id.

    Raises:
        ConfigError: an unknown or missing parameter, or the server refuses.
        WorkFailed: the server does not answer.
    """
    return str(endpoint.post(f"{_API}/runs", _order(endpoint, name, platform, arguments))["run_id"])


def schedule(
    endpoint: Endpoint, name: str, platform: Platform, arguments: Mapping[str, Any], cron: str
) -> str:
    """Have a pipeline run again and again, never twice at the same time; what was missed is not made up for.

    Args:
        endpoint: the server.
        name: of the pipeline.
        platform: where the steps run.
        arguments: the pipeline's parameters, on top of the platform's.
        cron: six fields, seconds first: "0 0 3 * * 1" is Mondays at 3.

    Returns:
        The recurring run's id.

    Raises:
        ConfigError: an unknown or missing parameter, or the server refuses.
        WorkFailed: the server does not answer.
    """
    if len(cron.split()) != 6:
        raise ConfigError(
            f"expected six fields, seconds first, such as '0 0 3 * * 1', got {cron!r}; KFP's cron has seconds"
        )
    order = _order(endpoint, name, platform, arguments)
    order |= {
        "trigger": {"cron_schedule": {"cron": cron}}, "max_concurrency": "1", "no_catchup": True,
        "mode": "ENABLE",
    }  # fmt: skip
    return str(endpoint.post(f"{_API}/recurringruns", order)["recurring_run_id"])


def read_run(endpoint: Endpoint, run_id: str) -> Run:
    """Return where a run stands.

    Raises:
        DataError: no such run.
    """
    document = endpoint.get(f"{_API}/runs/{run_id}")
    details = (document.get("run_details") or {}).get("task_details") or ()
    spec = document.get("pipeline_spec") or {}
    info = spec.get("pipeline_spec", spec).get("pipelineInfo") or {}
    return Run(
        id=str(document["run_id"]), name=str(document.get("display_name", "")),
        pipeline=str(info.get("name", "")), state=str(document.get("state", "PENDING")),
        steps=tuple(_step(detail) for detail in details), error=_error(document),
    )  # fmt: skip


def wait(
    endpoint: Endpoint,
    run_id: str,
    progress: Callable[[Run], None],
    *,
    seconds: float | None = None,
    every: float = 10.0,
) -> Run:
    """Watch a run until it ends.

    Args:
        endpoint: the server.
        run_id: the run's.
        progress: told each look.
        seconds: at most so long; None for ever.
        every: seconds between two looks.

    Raises:
        WorkFailed: the time is over; the run goes on.
    """
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        run = read_run(endpoint, run_id)
        progress(run)
        if run.ended:
            return run
        if until is not None and time.monotonic() >= until:
            raise WorkFailed(
                f"expected run {run_id} to end within {seconds:g} s, got {run.state}; it goes on: look again "
                "with `rampart pipeline status`"
            )
        time.sleep(every)


def logs(endpoint: Endpoint, run_id: str, step: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield the log of each pod of a run: the step's name and the text.

    Args:
        endpoint: the server.
        run_id: the run's.
        step: only of steps with this in their name.

    Raises:
        DataError: no such run.
        ConfigError: no such step.
    """
    run = read_run(endpoint, run_id)
    wanted = [item for item in run.steps if step is None or _plain(step) in _plain(item.name)]
    if step is not None and not wanted:
        raise ConfigError(f"unknown step {step!r}{suggest(step, (item.name for item in run.steps))}")
    for item in wanted:
        for pod in item.pods:
            yield item.name, endpoint.text(f"apis/v1alpha1/runs/{run_id}/nodes/{pod}/log")


def _order(endpoint: Endpoint, name: str, platform: Platform, arguments: Mapping[str, Any]) -> dict[str, Any]:
    pipeline, pods = build(name, platform)
    _check_arguments(pipeline, arguments)
    config: dict[str, Any] = {"parameters": dict(arguments)}
    if platform.pipeline_root:
        config["pipeline_root"] = platform.pipeline_root
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    order: dict[str, Any] = {
        "display_name": f"{pipeline['pipelineInfo']['name']} {now}",
        "experiment_id": _experiment(endpoint, platform),
        "pipeline_spec": {"pipeline_spec": pipeline, "platform_spec": pods},
        "runtime_config": config,
    }
    if platform.service_account:
        order["service_account"] = platform.service_account
    return order


def _check_arguments(pipeline: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    known = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
    for key in arguments:
        if key not in known:
            raise ConfigError(f"unknown pipeline parameter {key!r}{suggest(key, known)}")
    missing = sorted(
        key for key, item in known.items()
        if key not in arguments and "defaultValue" not in item and not item.get("isOptional")
    )  # fmt: skip
    if missing:
        raise ConfigError(
            f"expected the parameter(s) {', '.join(missing)}, got none; give --set KEY=VALUE, or "
            "`parameters` in the values"
        )


def _experiment(endpoint: Endpoint, platform: Platform) -> str:
    equals = {"operation": "EQUALS", "key": "display_name", "stringValue": platform.experiment}
    query = {"filter": json.dumps({"predicates": [equals]})}
    place = {"namespace": platform.namespace} if platform.namespace else {}
    found = endpoint.get(f"{_API}/experiments", {**query, **place}).get("experiments") or ()
    if found:
        return str(found[0]["experiment_id"])
    made = endpoint.post(f"{_API}/experiments", {"display_name": platform.experiment, **place})
    return str(made["experiment_id"])


def _step(detail: Mapping[str, Any]) -> Step:
    pods = [detail.get("pod_name"), *(child.get("pod_name") for child in detail.get("child_tasks") or ())]
    return Step(
        name=str(detail.get("display_name", "")), state=str(detail.get("state", "PENDING")),
        pods=tuple(dict.fromkeys(str(pod) for pod in pods if pod)), error=_error(detail),
    )  # fmt: skip


def _error(document: Mapping[str, Any]) -> str:
    return str((document.get("error") or {}).get("message", ""))


def _plain(name: str) -> str:
    """Write a name as KFP's documents do: "publish bundle" is "publish-bundle"."""
    return name.strip().lower().replace(" ", "-").replace("_", "-")
