"""The KServe InferenceService of one detector."""

import re

__all__ = ["inference_service"]

_LIMITS = {"cpu": "2", "memory": "4Gi"}
_REQUESTS = {"cpu": "1", "memory": "2Gi"}


def inference_service(*, uri: str, version: str, registry: str, name: str, image: str) -> str:
    """Return the manifest as YAML.

    Args:
        uri: `registry://NAME@CHANNEL`.
        version: the published version.
        registry: address of the object store.
        name: the model's name; the service's name is it in the letters that Kubernetes takes.
        image: the predictor's image.
    """
    import yaml

    service = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    container = {
        "name": "kserve-container",
        "image": image,
        "command": ["rampart", "serve", "--model", uri, "--name", name],
        "env": [{"name": "RAMPART_REGISTRY", "value": registry}],
        "ports": [{"name": "http1", "containerPort": 8080, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": f"/v2/models/{name}/ready", "port": 8080}},
        "resources": {"requests": _REQUESTS, "limits": _LIMITS},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    document = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": service,
            "annotations": {
                "serving.kserve.io/deploymentMode": "Standard",
                "rampart/model-version": version,
            },
        },
        "spec": {"predictor": {"minReplicas": 1, "containers": [container]}},
    }
    return str(yaml.safe_dump(document, sort_keys=False))
