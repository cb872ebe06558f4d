"""Training on several machines: a Kubeflow TrainJob whose data, checkpoint and result lie on an object store.

Source: Kubeflow Trainer v2, trainer.kubeflow.org/v1alpha1; `runtimePatches` since 2.2, `podTemplateOverrides`
in 2.1, `podSpecOverrides` in 2.0.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.training import TrainingOrder
from dfcore.errors import ConfigError, WorkFailed
from rollout import Cluster, Kind, Toleration, Values

__all__ = ["TRAIN_JOB", "TrainJobSettings", "run_train_job", "train_job"]

TRAIN_JOB = Kind("trainer.kubeflow.org", "v1alpha1", "TrainJob", "trainjobs")
_PATCHES = ("runtimePatches", "podTemplateOverrides", "podSpecOverrides")
_SECONDS = 5.0
_NODE = "node"  # the trainer's name in Trainer's own runtimes
_SHARED = "shared-memory"

Patch = Literal["runtimePatches", "podTemplateOverrides", "podSpecOverrides"]


class TrainJobSettings(Values):
    """The machines of a training run.

    Attributes:
        namespace: of the TrainJob.
        image: holds this project, by digest.
        runtime: a ClusterTrainingRuntime for torch; it decides the pods' security context, which no job may.
        nodes: machines.
        gpus: of each; one process for each of them.
        requests, limits: CPU and memory of each machine's pod.
        secret, keys: variables that are read from an existing Secret, for the object store.
        environment: further variables.
        hours: after which the job counts as stuck.
    """

    namespace: str
    image: str
    runtime: str = "torch-distributed"
    nodes: int = Field(default=2, ge=1)
    gpus: int = Field(default=1, ge=0)
    gpu_resource: str = "nvidia.com/gpu"
    requests: dict[str, str] = Field(default_factory=lambda: {"cpu": "8", "memory": "32Gi"})
    limits: dict[str, str] = Field(default_factory=lambda: {"cpu": "16", "memory": "64Gi"})
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    shared_memory: str = "8Gi"
    secret: str = ""
    keys: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    hours: float = Field(default=72.0, gt=0)


def run_train_job(
    order: TrainingOrder, out: Path, checkpoints: str | None, key: str, settings: Mapping[str, Any]
) -> None:
    """Train on several machines and fetch the result; a job of the same work that runs already is joined.

    Args:
        order: what to train.
        out: the detector's folder.
        checkpoints: the object store through which everything goes; s3://….
        key: names the run: equal for equal work.
        settings: keys of `TrainJobSettings`.

    Raises:
        ConfigError: no object store, or a cluster without Trainer.
        WorkFailed: the job failed, or took too long.
    """
    from components.progress import say
    from dfcore.storage import open_store

    machines = TrainJobSettings.parse(settings, source="train_job")
    if checkpoints is None or not checkpoints.startswith("s3://"):
        raise ConfigError(
            f"expected checkpoints=s3://… to train on several machines, got {checkpoints}; they share "
            "nothing else"
        )
    cluster = Cluster.connect(machines.namespace)
    patch = _patch_field(cluster)
    store = open_store(checkpoints)
    document = {**order._asdict(), "store": _upload(order.store, checkpoints)}
    if order.initial is not None:
        for path in filter(Path.is_file, Path(order.initial).iterdir()):
            store.put(f"{key}/initial/{path.name}", path.read_bytes())
    store.put(f"{key}/order.json", json.dumps(document).encode())
    name = f"rampart-{key[:16]}"
    if cluster.get(TRAIN_JOB, name) is None:
        cluster.create(TRAIN_JOB, train_job(name, f"{checkpoints.rstrip('/')}/{key}", machines, patch))
    say(order.step, f"TrainJob {name}: {machines.nodes} machines with {machines.gpus} GPUs each")
    _wait(cluster, name, order.step, machines.hours)
    store.download_folder(f"{key}/result", out)
    cluster.delete(TRAIN_JOB, name)
    for left in store.list(f"{key}/"):
        store.delete(left)


def train_job(
    name: str, place: str, settings: TrainJobSettings, patch: Patch = "runtimePatches"
) -> dict[str, Any]:
    """Return the TrainJob.

    Args:
        name: its name.
        place: s3:// address of the order.
        settings: the machines.
        patch: the field by which this Trainer lets a job change its runtime's pods.
    """
    resources: dict[str, dict[str, str]] = {
        "requests": dict(settings.requests), "limits": dict(settings.limits),
    }  # fmt: skip
    if settings.gpus:
        resources["limits"][settings.gpu_resource] = str(settings.gpus)
        resources["requests"][settings.gpu_resource] = str(settings.gpus)
    values = {"HOME": "/tmp", "RAMPART_CACHE": "/tmp/rampart", "RAMPART_ORDER": place}  # noqa: S108
    environment: list[dict[str, Any]] = [
        {"name": key, "value": value} for key, value in (values | settings.environment).items()
    ]
    environment += [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": settings.secret, "key": key}}}
        for variable, key in sorted(settings.keys.items()) if settings.secret
    ]  # fmt: skip
    return {
        "apiVersion": TRAIN_JOB.api_version,
        "kind": TRAIN_JOB.kind,
        "metadata": {"name": name, "namespace": settings.namespace,
                     "labels": {"app.kubernetes.io/part-of": "rampart"}},
        "spec": {
            "runtimeRef": {"name": settings.runtime},
            "trainer": {
                "image": settings.image, "command": ["python", "-m", "components.train_node"],
                "env": environment, "numNodes": settings.nodes, "resourcesPerNode": resources,
                # 2.2 and later take the number of processes from the GPUs
                **({} if patch == "runtimePatches" else {"numProcPerNode": max(settings.gpus, 1)}),
            },
            patch: [_patched(_pod(settings), patch)],
        },
    }  # fmt: skip


def _pod(settings: TrainJobSettings) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "volumes": [
            {"name": _SHARED, "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}},
        ],
        "containers": [
            {"name": _NODE, "volumeMounts": [{"name": _SHARED, "mountPath": "/dev/shm"}]},  # noqa: S108
        ],
    }  # fmt: skip
    if settings.node_selector:
        pod["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        pod["tolerations"] = [item.manifest() for item in settings.tolerations]
    return pod


def _patched(pod: dict[str, Any], patch: Patch) -> dict[str, Any]:
    if patch == "podSpecOverrides":
        return {"targetJobs": [{"name": _NODE}], **pod}
    if patch == "podTemplateOverrides":
        return {"targetJobs": [{"name": _NODE}], "spec": pod}
    job = {"name": _NODE, "template": {"spec": {"template": {"spec": pod}}}}
    return {
        "manager": "rampart.io/pipeline",
        "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}},
    }


def _patch_field(cluster: Cluster) -> Patch:
    if not cluster.serves(TRAIN_JOB):
        raise ConfigError(
            "expected Kubeflow Trainer v2 in the cluster, got none; install it, or train in one pod"
        )
    for name in _PATCHES:
        if cluster.has_field(TRAIN_JOB, name):
            return name  # type: ignore[return-value]  # one of the three
    raise ConfigError(
        "expected a TrainJob whose pods can be patched, got another API; install Trainer 2.0 to 2.3"
    )


def _upload(folder: str, checkpoints: str) -> str:
    """Have a crop store on the object store, once for each content."""
    from dfcore.data import CropStore

    if folder.startswith("s3://"):
        return folder
    store = CropStore.open(Path(folder))
    place = f"{checkpoints.rstrip('/')}/stores/{hashlib.sha256(store.digest.encode()).hexdigest()[:32]}"
    store.upload(place)
    return place


def _wait(cluster: Cluster, name: str, step: str, hours: float) -> None:
    from components.progress import say

    until, last = time.monotonic() + hours * 3600, ""
    while time.monotonic() < until:
        status = (cluster.get(TRAIN_JOB, name) or {}).get("status") or {}
        conditions = {item["type"]: item for item in status.get("conditions") or ()}
        for kind in ("Complete", "Failed"):
            if conditions.get(kind, {}).get("status") == "True":
                if kind == "Complete":
                    return
                cluster.delete(TRAIN_JOB, name)  # or a retry would find it and fail the same way
                raise WorkFailed(
                    f"expected TrainJob {name} to complete, got: {conditions[kind].get('message')}"
                )
        jobs = ", ".join(
            f"{job['name']}: {job.get('active', 0)} active, {job.get('failed', 0)} failed"
            for job in status.get("jobsStatus") or ()
        )
        if jobs != last:
            say(step, f"TrainJob {name}: {jobs}")
            last = jobs
        time.sleep(_SECONDS)
    raise WorkFailed(f"expected TrainJob {name} to end within {hours:g} h, got none; look at its pods")
