from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.tools import CHART, KUBERNETES, ROOT, VARIANTS, find, render, run, validate

NEWEST = ("--kube-version", KUBERNETES[-1])
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
ALLOWED_VOLUMES = {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected"}


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the pod specs of workloads, runtimes and InferenceServices."""
    for one in documents:
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] in ("Deployment", "Job"):
            yield name, one["spec"]["template"]["spec"]
        elif one["kind"] == "CronJob":
            yield name, one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        elif one["kind"] == "ServingRuntime":
            yield name, one["spec"]
        elif one["kind"] == "InferenceService":
            yield name, one["spec"]["predictor"]


def test_the_unit_tests_pass() -> None:
    run([find("untt"), "--strict", CHART])


def test_helm_finds_nothing_to_complain_about() -> None:
    run([find("helm"), "lint", "--strict", CHART, *NEWEST])


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_variant_fits_the_schemas_of_kubernetes(version: str, tmp_path: Path) -> None:
    for variant in VARIANTS:
        text = yaml.safe_dump_all(render(variant, version=version))
        (tmp_path / f"{variant}.yaml").write_text(text, encoding="utf-8")
    summary = validate(tmp_path, version)
    assert summary["valid"] > 80
    assert summary["valid"] == sum(summary.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pod_is_restricted(variant: str) -> None:
    for name, pod in pods(render(variant)):
        containers = [*pod.get("initContainers", ()), *pod.get("containers", ())]
        assert containers, name
        for container in containers:
            assert container["securityContext"] == RESTRICTED, name
            assert container["resources"]["limits"]["memory"], name
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert "/tmp" in mounts, name  # noqa: S108  # the root is read-only
        if "ServingRuntime" not in name:  # which has no such fields; the InferenceService has
            assert pod["securityContext"]["runAsNonRoot"] is True, name
            assert pod["automountServiceAccountToken"] is False, name
        for volume in pod.get("volumes", ()):
            assert set(volume) - {"name"} <= ALLOWED_VOLUMES, name


def test_no_secret_is_made() -> None:
    kinds = {one["kind"] for variant in VARIANTS for one in render(variant)}
    assert "Secret" not in kinds
    assert not {kind for kind in kinds if kind.startswith("Cluster")}, "the chart is one namespace's"


def test_selectors_do_not_change_with_the_version(tmp_path: Path) -> None:
    chart = shutil.copytree(CHART, tmp_path / "rampart")
    text = (chart / "Chart.yaml").read_text(encoding="utf-8")
    (chart / "Chart.yaml").write_text(re.sub(r"ersion: 0\.1\.0", "ersion: 9.9.9", text), encoding="utf-8")
    both = []
    for place in (CHART, chart):
        found = yaml.safe_load_all(run([find("helm"), "template", "x", place, *NEWEST]).stdout)
        both.append([one["spec"]["selector"] for one in found if one["kind"] in ("Deployment", "Service")])
    assert both[0] == both[1]


def test_wrong_values_are_named() -> None:
    import subprocess

    command = [find("helm"), "template", "x", str(CHART), *NEWEST, "--set", "serving.replica=3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode
    assert "replica" in done.stderr
    assert "serving" in done.stderr


def test_there_is_a_unit_test_for_each_value() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    touched: set[str] = set()
    for file in (CHART / "tests").glob("*_test.yaml"):
        suite = yaml.safe_load(file.read_text(encoding="utf-8"))
        for one in (suite, *suite["tests"]):
            touched |= set(_leaves(one.get("set", {})))
    untested = [
        leaf for leaf in _leaves(values)
        if not any(f"{leaf}.".startswith(f"{key}.") or f"{key}.".startswith(f"{leaf}.") for key in touched)
    ]  # fmt: skip
    # one figure in a rule each: tests/charts/alert_cases.py holds what they do
    assert [leaf for leaf in untested if not leaf.startswith("monitoring.rules.thresholds.")] == []


# what stands below is the pipeline's, Kubernetes', the server's
_FREE = ("parameters", "resources", "settings")


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value and key not in _FREE:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_the_schema_is_strict_and_knows_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    _compare(values, schema, "")


def _compare(values: dict[str, Any], schema: dict[str, Any], place: str) -> None:
    if "properties" not in schema or place == ".pipelines":  # which pipelines.platform checks
        return
    assert schema["additionalProperties"] is False, place
    assert set(values) == set(schema["properties"]) - {"global"}, place
    for key, value in values.items():
        if isinstance(value, dict):
            _compare(value, schema["properties"][key], f"{place}.{key}")


def test_the_server_understands_what_it_is_given() -> None:
    """The settings file and the arguments of every variant, read by the server's own parser."""
    from serving.settings import ServerSettings

    for variant in VARIANTS:
        for one in render(variant):
            if one["kind"] == "ConfigMap" and "settings.yaml" in one["data"]:
                ServerSettings.parse(yaml.safe_load(one["data"]["settings.yaml"]), variant)


def test_the_pipelines_read_the_same_file() -> None:
    from pipelines.platform import load_platform

    values = CHART / "ci" / "rollout-values.yaml"
    assert load_platform(values).namespace == "team"
    known = yaml.safe_load((ROOT / "pipelines" / "platform.yaml").read_text(encoding="utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert set(schema["properties"]["pipelines"]["properties"]) == set(known)


def test_torchserve_understands_its_commands() -> None:
    from serving.torchserve.__main__ import _parser

    (runtime,) = (one for one in render("kserve") if one["metadata"]["name"] == "rampart-torchserve")
    (container,) = runtime["spec"]["containers"]
    commands = [[*container["command"], *container["args"]]]
    probes = ("startupProbe", "readinessProbe", "livenessProbe")
    commands += [container[probe]["exec"]["command"] for probe in probes]
    verbs = [_parser().parse_args(command[3:]).verb for command in commands]
    assert verbs == ["start", "ready", "ready", "ready"]


def test_the_commands_exist() -> None:
    known = json.loads((ROOT / "tests" / "command_line.json").read_text(encoding="utf-8"))
    for variant in VARIANTS:
        for name, pod in pods(render(variant)):
            for container in (*pod.get("initContainers", ()), *pod.get("containers", ())):
                command = " ".join(container.get("command", ()))
                if command.startswith("rampart "):
                    options = {part for part in container["args"] if part.startswith("--")}
                    # a switch's "off" is listed by its "on"
                    wanted = {option.replace("--no-", "--") for option in options}
                    assert wanted <= set(known[command]), (name, command)
