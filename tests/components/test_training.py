"""Training steps that outlive their pod, and share it between processes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from components import train_node, train_process, training
from components.checkpoints import CHECKPOINT, mirrored
from components.train_job import TrainJobSettings, run_train_job, train_job
from components.training import TrainingOrder, run_training
from dfcore.data import CropStore
from dfcore.errors import ConfigError, WorkFailed
from dfcore.models import load_detector
from dfcore.storage import open_store
from dfcore.training import preflight
from tests.training.conftest import write_store

_TINY = (
    "model.backbone=resnet10t", "model.image_size=32", "data.batch_size=12", "optimiser.epochs=2",
    "validation.crops=8", "validation.steps=1", "checkpoint.every_steps=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CropStore:
    return write_store(tmp_path_factory.mktemp("store") / "crops")


def _order(store: CropStore) -> TrainingOrder:
    return TrainingOrder("train tiny", "demo_baseline", _TINY, str(store.path))


def test_a_lost_pod_is_gone_on_from(
    store: CropStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = f"file://{tmp_path / 'checkpoints'}"
    seen: list[int] = []

    def report(_: str) -> Any:
        def callback(now: Any) -> None:
            seen.append(now.step)
            if len(seen) == 3:
                raise WorkFailed("the node was taken away")

        return callback

    monkeypatch.setattr("components.progress.training", report)
    with pytest.raises(WorkFailed, match="taken away"):
        run_training(_order(store), tmp_path / "first", kept, "key")
    assert open_store(kept).list() == [f"key/{CHECKPOINT}"]
    stopped = seen.copy()
    seen[:] = [-1] * 3
    run_training(_order(store), tmp_path / "second", kept, "key")
    assert "goes on from the checkpoint" in capfd.readouterr().err
    assert seen[3] >= stopped[-1], "nothing is done twice"
    assert load_detector(tmp_path / "second").threshold > 0
    assert not open_store(kept).list(), "a finished run keeps no checkpoint"


def test_a_bad_batch_outlives_the_pod(
    store: CropStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    kept, out = f"file://{tmp_path / 'kept'}", tmp_path / "model"
    out.mkdir()
    (out / "bad_batch_7.safetensors").write_bytes(b"an earlier run's")
    hot = ("optimiser.learning_rate=1e30", "optimiser.gradient_clip=null", "optimiser.warmup_epochs=0")
    with pytest.raises(WorkFailed, match="its batch is in"):
        run_training(_order(store)._replace(overrides=(*_TINY, *hot)), out, kept, "key")
    assert f"failed on is in {kept}/key/bad_batch.safetensors" in capfd.readouterr().err
    assert open_store(kept).list() == ["key/bad_batch.safetensors", f"key/{CHECKPOINT}"]

    def fail(order: TrainingOrder, out: Path, options: list[str]) -> None:
        (out / "bad_batch_4.safetensors").write_bytes(b"batch")
        raise WorkFailed("expected a finite loss")

    monkeypatch.setenv("PET_NODE_RANK", "1")
    monkeypatch.setattr("components.train_node.torchrun", fail)
    open_store(kept).put("key/order.json", json.dumps(_order(store)._asdict()).encode())
    with pytest.raises(WorkFailed, match="finite loss"):
        train_node.main(f"{kept}/key", tmp_path / "scratch")
    assert "key/bad_batch_4.safetensors" in open_store(kept).list()


def test_a_store_that_is_away_costs_no_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, kept = tmp_path / "run", tmp_path / "kept"
    folder.mkdir()
    with mirrored(folder, f"file://{kept}", "key", "train"):
        (kept / "key").parent.mkdir(parents=True, exist_ok=True)
        (kept / "key").write_text("in the way of the folder")
        (folder / CHECKPOINT).write_bytes(b"weights")
    assert "is not in" in capfd.readouterr().err

    def fail() -> None:
        with mirrored(folder, f"file://{kept}", "key", "train"):
            (folder / "bad_batch.safetensors").write_bytes(b"batch")
            raise WorkFailed("the run's own")

    with pytest.raises(WorkFailed, match="the run's own"):
        fail()
    assert "could not be kept in" in capfd.readouterr().err


def test_without_a_store_nothing_is_kept(tmp_path: Path) -> None:
    with mirrored(tmp_path, None, "key", "train"):
        (tmp_path / CHECKPOINT).write_bytes(b"weights")
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_torchrun_shares_the_work(store: CropStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAMPART_PROCESSES", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    order = _order(store)._replace(overrides=(*_TINY, "optimiser.epochs=1", "optimiser.warmup_epochs=0"))
    run_training(order, tmp_path / "model", None, "key")
    document = (tmp_path / "model" / "training.json").read_text(encoding="utf-8")
    assert '"processes": 2' in document
    assert not (tmp_path / "model" / "order.json").exists()


def test_what_torchrun_or_a_process_says_is_passed_on(
    store: CropStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = _order(store)._replace(overrides=(*_TINY, "model.image_size=64"))
    path = tmp_path / "order.json"
    path.write_text(json.dumps(wrong._asdict()), encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        train_process.main(str(path), str(tmp_path / "model"))
    assert left.value.code == 2
    assert "process 0: expected" in capfd.readouterr().err
    monkeypatch.setattr("components.training.sys.executable", "/bin/false")
    with pytest.raises(WorkFailed, match="expected torchrun to train, got exit code 1"):
        training.torchrun(wrong, tmp_path, [])


def test_the_first_of_several_processes_looks_ahead(
    store: CropStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "order.json", tmp_path / "model"
    path.write_text(json.dumps(_order(store)._asdict()), encoding="utf-8")
    module = sys.modules[preflight.__module__]
    monkeypatch.setattr(module, "_SMALL", 0)
    monkeypatch.setattr(module, "free_memory", lambda _device: -(2**50))
    with pytest.raises(SystemExit) as left:
        train_process.main(str(path), str(out))
    assert left.value.code == 2
    assert "process 0: expected a run that fits" in capfd.readouterr().err
    assert not out.exists(), "it was trained all the same"
    monkeypatch.setattr("dfcore.training.train", lambda *_, **__: seen.append(os.environ["RANK"]))
    seen: list[str] = []
    monkeypatch.setenv("RANK", "1")
    train_process.main(str(path), str(out))
    monkeypatch.setenv("RANK", "0")
    out.mkdir()
    (out / CHECKPOINT).write_bytes(b"it fitted before")
    train_process.main(str(path), str(out))
    assert seen == ["1", "0"]


def test_a_train_job_says_what_each_machine_runs() -> None:
    settings = TrainJobSettings.parse({
        "namespace": "team", "image": "registry.example/rampart-python@sha256:0", "nodes": 2, "gpus": 4,
        "secret": "rampart-writer", "keys": {"AWS_ACCESS_KEY_ID": "accesskey"},
        "nodeSelector": {"pool": "gpu"}, "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    })  # fmt: skip
    spec = train_job("job", "s3://bucket/runs/key", settings)["spec"]
    assert spec["trainer"]["numNodes"] == 2
    assert spec["trainer"]["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "4"
    assert "numProcPerNode" not in spec["trainer"], "2.2 takes it from the GPUs"
    (patch,) = spec["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert (job["name"], pod["nodeSelector"]) == ("node", {"pool": "gpu"})
    assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == "/dev/shm"  # noqa: S108
    secret = [item for item in spec["trainer"]["env"] if "valueFrom" in item]
    assert secret[0]["valueFrom"]["secretKeyRef"] == {"name": "rampart-writer", "key": "accesskey"}
    old = train_job("job", "s3://bucket/runs/key", settings, "podSpecOverrides")["spec"]
    assert old["podSpecOverrides"][0]["targetJobs"] == [{"name": "node"}]
    assert old["trainer"]["numProcPerNode"] == 4
    middle = train_job("job", "s3://bucket/runs/key", settings, "podTemplateOverrides")["spec"]
    assert middle["podTemplateOverrides"][0]["spec"]["nodeSelector"] == {"pool": "gpu"}


def test_a_machine_takes_its_order_and_leaves_the_result(
    store: CropStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "PET_STANDALONE", "1"
    )  # torchrun reads its options from the environment, as on a TrainJob
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    overrides = (*_TINY, "optimiser.epochs=1", "optimiser.warmup_epochs=0")
    objects = open_store(f"file://{tmp_path / 'objects'}")
    objects.put("key/order.json", json.dumps(_order(store)._replace(overrides=overrides)._asdict()).encode())
    train_node.main(f"file://{tmp_path / 'objects'}/key", tmp_path / "scratch")
    objects.download_folder("key/result", tmp_path / "model")
    assert load_detector(tmp_path / "model").threshold > 0
    assert any((tmp_path / "model" / "tensorboard").iterdir()), "folders in it are left too"
    assert f"key/{CHECKPOINT}" not in objects.list()


def test_machines_need_a_store_between_them(store: CropStore, tmp_path: Path) -> None:
    machines = {"namespace": "team", "image": "x@sha256:0"}
    with pytest.raises(ConfigError, match="expected checkpoints=s3://"):
        run_train_job(_order(store), tmp_path, None, "key", machines)


def test_an_order_survives_the_way_to_another_process(store: CropStore) -> None:
    order = _order(store)
    assert training.read_order({**order._asdict(), "overrides": list(order.overrides)}) == order
    assert os.environ.get("RAMPART_ORDER") is None
