"""python -m pipelines.compile --values F --out train_and_release.yaml: a pipeline as YAML for a KFP server.

Works where torch is not installed: components import the library only when they run.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import yaml

from dfcore.config import suggest
from dfcore.errors import ConfigError
from pipelines.platform import Platform, load_platform

__all__ = ["PIPELINES", "build", "compile_pipeline", "main"]

PIPELINES = ("audit_robustness", "train_and_release")
_API = "pipelines.kubeflow.org/v2beta1"


def build(name: str = "train_and_release", platform: Platform | None = None) -> list[dict[str, Any]]:
    """Return a pipeline's documents: its spec and, with a platform, what Kubernetes must know.

    Args:
        name: of PIPELINES.
        platform: where the steps run; None leaves that to the server.

    Raises:
        ConfigError: no such pipeline, a parameter that none has, or no key for one that signs.
    """
    from google.protobuf import json_format
    from kfp import dsl
    from kfp.kubernetes import kubernetes_executor_config_pb2 as executor_pb
    from kfp.pipeline_spec import pipeline_spec_pb2 as spec_pb

    import pipelines
    from pipelines.placement import place

    assert dsl  # without the SDK's authoring half there is nothing to build
    if name not in PIPELINES:
        raise ConfigError(f"unknown pipeline {name!r}{suggest(name, PIPELINES)}")
    pipeline: dict[str, Any] = json_format.MessageToDict(getattr(pipelines, name).pipeline_spec)
    documents = [pipeline]
    if platform is not None:
        known = {key for one in PIPELINES for key in getattr(pipelines, one).component_spec.inputs or ()}
        for key in platform.parameters.keys() - known:
            raise ConfigError(f"unknown parameter {key!r} of the pipelines{suggest(key, known)}")
        documents.append(place(pipeline, platform))
        json_format.ParseDict(pipeline, spec_pb.PipelineSpec())
        for pod in documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
            json_format.ParseDict(pod, executor_pb.KubernetesExecutorConfig())
    return documents


def compile_pipeline(
    out: Path, name: str = "train_and_release", platform: Platform | None = None, *, manifests: bool = False
) -> Path:
    """Write a pipeline; the file appears whole or not at all.

    Args:
        out: a `.yaml` file.
        name: of PIPELINES.
        platform: where the steps run; None leaves that to the server.
        manifests: as Kubernetes objects, Pipeline and PipelineVersion, for GitOps.

    Returns:
        The file.
    """
    documents = build(name, platform)
    if manifests:
        documents = _manifests(documents, "" if platform is None else platform.namespace)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.stem}.{os.getpid()}.partial.yaml")
    try:
        partial.write_text(yaml.safe_dump_all(documents, sort_keys=True, width=110), encoding="utf-8")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return out


def _manifests(documents: list[dict[str, Any]], namespace: str) -> list[dict[str, Any]]:
    """Return a Pipeline and the PipelineVersion of this content, which is immutable in the cluster."""
    from dfcore.provenance import digest_json

    info = documents[0]["pipelineInfo"]
    version = f"{info['name']}-{digest_json(documents)[:8]}"
    place = {"namespace": namespace} if namespace else {}
    spec: dict[str, Any] = {
        "displayName": version, "pipelineName": info["name"], "pipelineSpec": documents[0],
    }  # fmt: skip
    if len(documents) > 1:
        spec["platformSpec"] = documents[1]
    return [
        {
            "apiVersion": _API, "kind": "Pipeline", "metadata": {"name": info["name"], **place},
            "spec": {"displayName": info["name"], "description": info.get("description", "")},
        },
        {"apiVersion": _API, "kind": "PipelineVersion", "metadata": {"name": version, **place}, "spec": spec},
    ]  # fmt: skip


def main() -> None:
    """Parse the command line and compile."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.compile", description="Write a pipeline as YAML."
    )
    parser.add_argument("--pipeline", choices=PIPELINES, default="train_and_release")
    parser.add_argument("--values", type=Path, help="the platform's values; see pipelines/platform.yaml")
    parser.add_argument("--manifests", action="store_true", help="as Kubernetes objects, for GitOps")
    parser.add_argument("--out", type=Path, default=Path("train_and_release.yaml"))
    options = parser.parse_args()
    platform = load_platform(options.values) if options.values else None
    compile_pipeline(options.out, options.pipeline, platform, manifests=options.manifests)


if __name__ == "__main__":
    main()
