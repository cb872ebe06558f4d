"""From a promoted version to the pods that serve it: canary, analysis, promotion or rollback."""

from rollout.analysis import Check, Prometheus, Versions, judge
from rollout.chart import rollout_values
from rollout.cluster import Cluster, Kind
from rollout.lock import State, read_state
from rollout.manifests import Release, inference_service, service_name
from rollout.rollout import Clock, abort, roll_out
from rollout.settings import Analysis, RolloutSettings, ServiceSettings, Toleration, Traffic, Values

__all__ = [
    "Analysis",
    "Check",
    "Clock",
    "Cluster",
    "Kind",
    "Prometheus",
    "Release",
    "RolloutSettings",
    "ServiceSettings",
    "State",
    "Toleration",
    "Traffic",
    "Values",
    "Versions",
    "abort",
    "inference_service",
    "judge",
    "read_state",
    "roll_out",
    "rollout_values",
    "service_name",
]
