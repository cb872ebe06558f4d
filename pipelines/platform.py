"""The platform's values: one file for the compiled pipelines and for the chart, so that no code is edited."""

import re
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator

from dfcore.config import read_yaml, suggest
from dfcore.errors import ConfigError
from rollout.chart import rollout_values
from rollout.settings import RolloutSettings, Toleration, Values

__all__ = ["STEPS", "Platform", "StepSettings", "load_platform"]

STEPS = (
    "audit_robustness", "check_release_gate", "deploy", "evaluate_robustness", "flag_regression",
    "join_stores", "prepare_faces", "publish_bundle", "reject_model", "scan_data", "train_detector",
    "write_report",
)  # fmt: skip
_DIGEST = re.compile(r"\S+@sha256:[0-9a-f]{64}")
_DURATION = re.compile(r"[1-9]\d*[smh]")
_SIZE = re.compile(r"[1-9]\d*(Ki|Mi|Gi|Ti)")
_FOLDER = re.compile(r"(/[\w.-]+)+")
_KEY = "pipelines"


class Storage(Values):
    """How steps reach the object store.

    Attributes:
        secret: an existing Secret; "" for credentials that pods have of themselves (IRSA, Workload Identity).
        keys: which variable is read from which of its keys.
        environment: further variables of every step.
    """

    secret: str = ""
    keys: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)


class Signing(Values):
    """The Secret with the private key, mounted in publish_bundle alone; a pipeline that signs needs one."""

    secret: str = ""
    key: str = "rampart.key"


class Affinity(Values):
    """One term of a node affinity; with a weight it is a preference, without one a condition."""

    match_expressions: tuple[dict[str, Any], ...] = ()
    match_fields: tuple[dict[str, Any], ...] = ()
    weight: int | None = Field(default=None, ge=1, le=100)


class StepSettings(Values):
    """What a step's pod gets.

    Attributes:
        requests, limits: CPU ("2", "500m") and memory ("4Gi").
        gpus: of `gpu_resource`; torchrun starts as many processes.
        affinity: to nodes.
        shared_memory: size of /dev/shm, which data loaders and NCCL use; "" leaves the container's 64 MiB.
        retries: how often a step whose pod was lost starts again.
        backoff, backoff_factor, backoff_maximum: the pause before that, and how it grows.
        timeout_seconds: after which a pod is ended.
    """

    requests: dict[Literal["cpu", "memory"], str] = Field(default_factory=dict)
    limits: dict[Literal["cpu", "memory"], str] = Field(default_factory=dict)
    gpus: int = Field(default=0, ge=0, le=8)
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: dict[str, str] = Field(default_factory=dict)
    affinity: tuple[Affinity, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    shared_memory: str = ""
    retries: int = Field(default=0, ge=0)
    backoff: str = "60s"
    backoff_factor: float = Field(default=2.0, ge=1)
    backoff_maximum: str = "600s"
    timeout_seconds: int = Field(default=3600, ge=1)

    @field_validator("backoff", "backoff_maximum")
    @classmethod
    def _is_a_duration(cls, value: str) -> str:
        if not _DURATION.fullmatch(value):
            raise ValueError(f"expected a duration such as 60s or 10m, got {value!r}")
        return value

    @field_validator("shared_memory")
    @classmethod
    def _is_a_size(cls, value: str) -> str:
        if value and not _SIZE.fullmatch(value):
            raise ValueError(f"expected a size such as 8Gi, got {value!r}")
        return value


class Platform(Values):
    """Everything that a cluster must be told; see `platform.yaml` for each key.

    Attributes:
        volumes: existing PersistentVolumeClaims and where each is mounted in every step, for data sets and
            the parameter `cache`.
        steps: by component; keys that are left out are those of `defaults`.
        parameters: defaults of the pipelines' parameters; one that a pipeline does not have is the others'.
        rollout: default of the parameter `rollout`.
    """

    image: str
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    user: int = Field(default=65532, ge=1)
    group: int = Field(default=65532, ge=0)
    service_account: str = ""
    endpoint: str = ""
    namespace: str = ""
    experiment: str = "rampart"
    pipeline_root: str = ""
    storage: Storage = Storage()
    signing: Signing = Signing()
    volumes: dict[str, str] = Field(default_factory=dict)
    defaults: StepSettings = StepSettings()
    steps: dict[str, StepSettings] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(default_factory=dict)
    rollout: RolloutSettings | None = None

    @field_validator("image")
    @classmethod
    def _is_pinned(cls, value: str) -> str:
        if not _DIGEST.fullmatch(value):
            raise ValueError(
                f"expected an image by digest, REPOSITORY@sha256:…, got {value!r}; a tag may change between "
                "two runs of one pipeline"
            )
        return value

    @field_validator("volumes")
    @classmethod
    def _are_folders(cls, value: dict[str, str]) -> dict[str, str]:
        for claim, folder in value.items():
            if not _FOLDER.fullmatch(folder):
                raise ValueError(f"expected an absolute folder such as /data for {claim!r}, got {folder!r}")
        if len(set(value.values())) < len(value):
            raise ValueError(f"expected a folder of its own for each claim, got {sorted(value.values())}")
        return value

    @field_validator("steps")
    @classmethod
    def _are_known(cls, value: dict[str, StepSettings]) -> dict[str, StepSettings]:
        for name in value:
            if name not in STEPS:
                raise ValueError(f"unknown step {name!r}{suggest(name, STEPS)}")
        return value

    def step(self, name: str) -> StepSettings:
        """Return the settings of a component."""
        own = self.steps.get(name)
        return self.defaults if own is None else self.defaults.model_copy(
            update={key: getattr(own, key) for key in own.model_fields_set}
        )  # fmt: skip


def load_platform(path: Path, **changes: str) -> Platform:
    """Read values on top of `platform.yaml`.

    Args:
        path: YAML of these keys, or a chart's values with them below `pipelines:`.
        changes: top-level keys by which a command line overrides the file.

    Raises:
        ConfigError: no such file, an unknown key, or a value that does not fit.
    """
    base = yaml.safe_load((resources.files("pipelines") / "platform.yaml").read_text(encoding="utf-8"))
    own = read_yaml(path, "values") or {}
    if not isinstance(own, dict):
        raise ConfigError(f"expected a mapping of values in {path}, got {type(own).__name__}")
    if isinstance(own.get(_KEY), dict):
        # a rollout's pods are the chart's own: what it says of its server holds for them
        whole, own = own, own[_KEY]
        if isinstance(own.get("rollout"), dict):
            own = {**own, "rollout": rollout_values(whole)}
    return Platform.parse(_merged(base, {**own, **changes}), source=str(path))


def _merged(base: Any, own: Any) -> Any:
    """Merge mappings as Helm does: key by key, lists and values replaced."""
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    return {key: _merged(base.get(key), own[key]) if key in own else base[key] for key in {**base, **own}}
