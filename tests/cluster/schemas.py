"""python schemas.py SWAGGER OUT CRDS...: strict JSON schemas for kubeconform, from files, without a cluster.

SWAGGER is Kubernetes' own api/openapi-spec/swagger.json; CRDS folders of CustomResourceDefinitions;
OUT/GROUP/KIND_VERSION.json is written for the kinds that the chart makes. Use with
kubeconform -strict -schema-location 'OUT/{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json'
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["write_schemas"]

Schema = dict[str, Any]
BUILT_IN = {
    "ConfigMap", "CronJob", "Deployment", "HorizontalPodAutoscaler", "Job", "NetworkPolicy",
    "PersistentVolumeClaim", "PodDisruptionBudget", "Role", "RoleBinding", "Service", "ServiceAccount",
}  # fmt: skip
CUSTOM = {"InferenceService", "PodMonitor", "PrometheusRule", "ScaledObject", "ServingRuntime"}
_NUMBER_OR_TEXT = {"anyOf": [{"type": "string"}, {"type": "number"}]}
_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_LEFT_OUT = {"description", "default", "nullable", "format"}


class _Loader(yaml.SafeLoader):
    """YAML in which "=" is the text that everybody means by it."""


_Loader.add_constructor("tag:yaml.org,2002:value", yaml.SafeLoader.construct_yaml_str)


def write_schemas(swagger: Path, out: Path, *crds: Path) -> int:
    """Write the schemas; returns how many."""
    raw = json.loads(swagger.read_text(encoding="utf-8"))["definitions"]
    definitions = {name: _convert(schema) for name, schema in raw.items()}
    for name in definitions:
        if name.endswith(".api.resource.Quantity"):
            definitions[name] = _NUMBER_OR_TEXT
    count = 0
    for name, schema in raw.items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            if kind["kind"] in BUILT_IN:
                _write(out, kind["group"], kind["version"], kind["kind"], definitions[name], definitions)
                count += 1
    for group, version, kind, schema in (one for folder in crds for one in _custom(folder)):
        converted = _convert(schema)
        converted.setdefault("properties", {}).update(
            apiVersion={"type": "string"},
            kind={"type": "string"},
            metadata={"$ref": f"#/definitions/{_META}"},
        )
        _write(out, group, version, kind, converted, definitions)
        count += 1
    return count


def _custom(crds: Path) -> Iterator[tuple[str, str, str, Schema]]:
    for file in sorted(crds.rglob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        if not any(f"kind: {kind}\n" in text for kind in CUSTOM):
            continue
        for one in yaml.load_all(text, _Loader):  # a SafeLoader
            if not one or one.get("kind") != "CustomResourceDefinition":
                continue
            spec = one["spec"]
            if spec["names"]["kind"] in CUSTOM:
                for version in spec["versions"]:
                    schema = version["schema"]["openAPIV3Schema"]
                    yield spec["group"], version["name"], spec["names"]["kind"], schema


def _convert(schema: Any, *, optional: bool = False) -> Any:
    """Make a schema refuse unknown fields; a field that may be left out may be null."""
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return _NUMBER_OR_TEXT
    found = {
        key: value
        for key, value in schema.items()
        if key not in _LEFT_OUT and not key.startswith("x-kubernetes")
    }
    required = set(schema.get("required", ()))
    if "properties" in found:
        found["properties"] = {
            name: _convert(one, optional=name not in required) for name, one in found["properties"].items()
        }
    for key in ("items", "not", "additionalProperties"):
        if key in found:
            found[key] = _convert(found[key])
    is_open = any(
        schema.get(f"x-kubernetes-{word}") for word in ("preserve-unknown-fields", "embedded-resource")
    )
    if "properties" in found and "additionalProperties" not in found and not is_open:
        found["additionalProperties"] = False
    if (optional or schema.get("nullable")) and isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
    return found


def _write(
    out: Path, group: str, version: str, kind: str, schema: Schema, definitions: Mapping[str, Any]
) -> None:
    needed: Schema = {}
    todo = _references(schema)
    while todo:
        name = todo.pop()
        if name not in needed:
            needed[name] = definitions[name]
            todo |= _references(definitions[name])
    folder = out / (group or version)  # kubeconform's group of a core kind is its version
    folder.mkdir(parents=True, exist_ok=True)
    document = {"$schema": "http://json-schema.org/draft-07/schema#", **schema, "definitions": needed}
    path = folder / f"{kind.lower()}_{version}.json"
    path.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")


def _references(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        here = {schema["$ref"].rpartition("/")[2]} if isinstance(schema.get("$ref"), str) else set()
        return here.union(*map(_references, schema.values()))
    return set().union(*map(_references, schema)) if isinstance(schema, list) else set()


if __name__ == "__main__":
    swagger_file, target, *folders = map(Path, sys.argv[1:])
    sys.stdout.write(f"{write_schemas(swagger_file, target, *folders)} schemas in {target}\n")
