"""How traffic is shared between two versions: by a route, by KServe's own canary, or by Knative's revisions.

Each way can hold a candidate beside the stable version, move the share of the traffic, make the candidate the
stable version, and take it away again; each of these may be repeated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from dfcore.errors import ConfigError
from rollout.cluster import DEPLOYMENT, HTTP_ROUTE, INFERENCE_SERVICE, Cluster, Kind
from rollout.manifests import Release, http_route, inference_service, predictor, service_name, version_of
from rollout.settings import RolloutSettings

__all__ = ["KnativeTraffic", "OwnCanary", "RouteTraffic", "TrafficControl", "choose_traffic"]

_KNATIVE = Kind("serving.knative.dev", "v1", "Service", "services")
_ALL = 100

# waits until the question is answered with None; otherwise it says what is missing
Wait = Callable[[Callable[[], str | None]], None]


class TrafficControl(ABC):
    """One way to share traffic."""

    def __init__(self, cluster: Cluster, settings: RolloutSettings, wait: Wait) -> None:
        """Keep what is needed; nothing is applied yet."""
        self._cluster, self._settings, self._wait = cluster, settings, wait

    def check(self, release: Release) -> None:
        """Let the cluster refuse, in a dry run, what the rollout would apply later.

        Raises:
            ConflictError: somebody else owns a field.
            ConfigError: the cluster does not admit an object.
        """
        for document in self._documents(release):
            self._apply(document, dry_run=True)

    def install(self, release: Release) -> None:
        """Serve a version with all of the traffic where nothing is served yet."""
        self._serve(inference_service(release, self._settings))

    @abstractmethod
    def start(self, stable: Release, candidate: Release) -> None:
        """Have the candidate ready, without traffic."""

    @abstractmethod
    def shift(self, stable: Release, candidate: Release, weight: int) -> None:
        """Give the candidate so many percent."""

    @abstractmethod
    def promote(self, candidate: Release) -> None:
        """Make the candidate the stable version with all of the traffic."""

    @abstractmethod
    def roll_back(self, stable: Release) -> None:
        """Give all of the traffic to the stable version, then take the candidate away."""

    def _documents(self, release: Release) -> list[dict[str, Any]]:
        return [inference_service(release, self._settings)]

    def _apply(self, document: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        kind = HTTP_ROUTE if document["kind"] == HTTP_ROUTE.kind else INFERENCE_SERVICE
        return self._cluster.apply(kind, document, force=self._settings.take_over, dry_run=dry_run)

    def _serve(self, document: Mapping[str, Any]) -> None:
        applied = self._apply(document)
        self._wait(lambda: self._missing(applied))

    def _missing(self, applied: Mapping[str, Any]) -> str | None:
        """Say what an applied InferenceService lacks until it is ready, or None."""
        name, wanted = applied["metadata"]["name"], applied["metadata"]["generation"]
        status = (self._cluster.get(INFERENCE_SERVICE, name) or {}).get("status") or {}
        conditions = {item["type"]: item for item in status.get("conditions") or ()}
        if status.get("observedGeneration", wanted) < wanted or "Ready" not in conditions:
            return f"{name}: KServe has not looked at it"
        if conditions["Ready"]["status"] == "True":
            return None
        said = "; ".join(
            f"{kind} {item.get('message') or item.get('reason') or item['status']}"
            for kind, item in conditions.items() if item["status"] != "True"
        )  # fmt: skip
        return f"{name}: {said}"


class RouteTraffic(TrafficControl):
    """Standard mode: a second InferenceService, and an HTTPRoute whose weights move."""

    def install(self, release: Release) -> None:
        """Serve a version, and route to it when it is ready."""
        super().install(release)
        self._route(release, {})

    def start(self, stable: Release, candidate: Release) -> None:
        """Have a second InferenceService ready."""
        self._route(stable, {self._second(stable): 0})
        self._serve(inference_service(candidate, self._settings, name=self._second(candidate)))

    def shift(self, stable: Release, candidate: Release, weight: int) -> None:
        """Move the route's weights."""
        self._route(stable, {self._second(candidate): weight})

    def promote(self, candidate: Release) -> None:
        """Let the candidate carry everything while the stable service's pods are replaced."""
        self._route(candidate, {self._second(candidate): _ALL})
        self._serve(inference_service(candidate, self._settings))
        self._route(candidate, {})
        self._cluster.delete(INFERENCE_SERVICE, self._second(candidate))

    def roll_back(self, stable: Release) -> None:
        """Route to the stable service; if it was changed already, change it back first."""
        name = service_name(stable.name, self._settings.service)
        if version_of(self._cluster.get(INFERENCE_SERVICE, name)) != stable.version:
            self._serve(inference_service(stable, self._settings))
        self._route(stable, {})
        self._cluster.delete(INFERENCE_SERVICE, self._second(stable))

    def _documents(self, release: Release) -> list[dict[str, Any]]:
        second = self._second(release)
        return [
            *super()._documents(release),
            inference_service(release, self._settings, name=second),
            self._routes(release, {second: 0}),
        ]

    def _missing(self, applied: Mapping[str, Any]) -> str | None:
        """Ask the Deployment too: KServe calls one ready while its last pods are still the old version's."""
        if (missing := super()._missing(applied)) is not None:
            return missing
        name, version = f"{applied['metadata']['name']}-predictor", version_of(applied)
        found = self._cluster.get(DEPLOYMENT, name)
        if found is None or version_of(found["spec"]["template"]) != version:
            return f"{name}: KServe has not changed the Deployment to {version}"
        status, wanted = found.get("status") or {}, found["spec"].get("replicas", 1)
        counts = [status.get(key, 0) for key in ("updatedReplicas", "readyReplicas", "replicas")]
        current = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        if current and counts == [wanted] * 3:
            return None
        return f"{name}: {counts[0]} of {wanted} pods are new, {counts[1]} of {counts[2]} ready"

    def _second(self, release: Release) -> str:
        return f"{service_name(release.name, self._settings.service)}-canary"

    def _route(self, release: Release, others: Mapping[str, int]) -> None:
        self._apply(self._routes(release, others))

    def _routes(self, release: Release, others: Mapping[str, int]) -> dict[str, Any]:
        assert self._settings.traffic is not None
        stable = service_name(release.name, self._settings.service)
        weights = {stable: _ALL - sum(others.values()), **others}
        route = http_route(stable, self._settings.namespace, self._settings.traffic, weights)
        route["metadata"]["labels"] |= self._settings.service.common_labels
        return route


class OwnCanary(TrafficControl):
    """Standard mode with `spec.canary[]` (KServe 0.20 and later): KServe keeps both and shares traffic."""

    def install(self, release: Release) -> None:
        """Serve a version under its own predictor name, so that a later promotion restarts nothing."""
        self._serve(self._document(release))

    def start(self, stable: Release, candidate: Release) -> None:
        """Add the candidate without traffic."""
        self._serve(self._document(stable, candidate))

    def shift(self, stable: Release, candidate: Release, weight: int) -> None:
        """Change its share."""
        self._apply(self._document(stable, candidate, weight))

    def promote(self, candidate: Release) -> None:
        """Make its predictor the service's."""
        self._serve(self._document(candidate))

    def roll_back(self, stable: Release) -> None:
        """Remove it."""
        self._serve(self._document(stable))

    def _documents(self, release: Release) -> list[dict[str, Any]]:
        return [self._document(release)]

    def _document(self, stable: Release, candidate: Release | None = None, weight: int = 0) -> dict[str, Any]:
        document = inference_service(stable, self._settings)
        document["spec"]["predictor"] = self._named(stable)
        if candidate is not None:
            # it has a fixed number of replicas and knows no scaling
            second = self._named(candidate)
            del second["maxReplicas"]
            document["spec"]["canary"] = [{"trafficPercent": weight, "predictor": second}]
        return document

    def _named(self, release: Release) -> dict[str, Any]:
        return {"name": release.version, **predictor(release, self._settings.service)}


class KnativeTraffic(TrafficControl):
    """Knative mode: each version is a revision, and KServe keeps the last good one beside the newest."""

    def start(self, stable: Release, candidate: Release) -> None:
        """Make the candidate the newest revision, without traffic."""
        self._serve(self._document(candidate, 0))

    def shift(self, stable: Release, candidate: Release, weight: int) -> None:
        """Move `canaryTrafficPercent`."""
        self._apply(self._document(candidate, weight))

    def promote(self, candidate: Release) -> None:
        """Leave the percentage out: all goes to the newest revision."""
        self._serve(inference_service(candidate, self._settings))

    def roll_back(self, stable: Release) -> None:
        """Take the traffic from the newest revision at once, then make the old version the newest."""
        now = self._cluster.get(INFERENCE_SERVICE, service_name(stable.name, self._settings.service))
        if now is not None and "canaryTrafficPercent" in now["spec"]["predictor"]:
            candidate = stable._replace(version=version_of(now) or stable.version)
            self._apply(self._document(candidate, 0))
        self._serve(inference_service(stable, self._settings))

    def _missing(self, applied: Mapping[str, Any]) -> str | None:
        """Ask for the newest revision too."""
        if (missing := super()._missing(applied)) is not None:
            return missing
        found = self._cluster.get(INFERENCE_SERVICE, applied["metadata"]["name"]) or {}
        revisions = found.get("status", {}).get("components", {}).get("predictor", {})
        newest, ready = revisions.get("latestCreatedRevision"), revisions.get("latestReadyRevision")
        return None if newest is not None and newest == ready else f"revision {newest} is not ready"

    def _document(self, release: Release, weight: int) -> dict[str, Any]:
        document = inference_service(release, self._settings)
        document["spec"]["predictor"]["canaryTrafficPercent"] = weight
        return document


def choose_traffic(cluster: Cluster, settings: RolloutSettings, wait: Wait) -> TrafficControl:
    """Return the way that the cluster has.

    Raises:
        ConfigError: it has none: no KServe, no Knative, no Gateway API.
    """
    if not cluster.serves(INFERENCE_SERVICE):
        raise ConfigError(
            f"expected KServe's {INFERENCE_SERVICE.kind} in the cluster, got none; install KServe and its "
            "CRDs, or use the chart's plain mode, which has no canary"
        )
    if settings.mode == "knative":
        if not cluster.serves(_KNATIVE):
            raise ConfigError(
                "expected Knative Serving for mode=knative, got a cluster without it; set mode: standard"
            )
        return KnativeTraffic(cluster, settings, wait)
    if settings.traffic is not None:
        if not cluster.serves(HTTP_ROUTE):
            raise ConfigError(
                f"expected the Gateway API's {HTTP_ROUTE.kind} for traffic, got a cluster without it; "
                "install its CRDs and a gateway"
            )
        return RouteTraffic(cluster, settings, wait)
    if cluster.has_field(INFERENCE_SERVICE, "canary"):
        return OwnCanary(cluster, settings, wait)
    raise ConfigError(
        "expected a way to share traffic, got none: KServe's Standard mode ignores canaryTrafficPercent and "
        "this one has no spec.canary; set traffic.gateway, or use mode: knative"
    )
