"""KubeRay's manifests against the schema of its definitions, unknown fields refused, as its API server would do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator

Schemas = dict[tuple[str, str], dict[str, Any]]


def read_definitions(folder: Path) -> Schemas:
    """API version and kind of each resource that the definitions in a folder describe, to its closed schema."""
    found: Schemas = {}
    for path in sorted(folder.glob("crd_*.yaml")):
        spec = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
        for version in spec["versions"]:
            schema = _close(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def list_errors(document: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """What is wrong with a resource, after its schema's defaults are filled in."""
    filled = copy.deepcopy(document)
    _fill(schema, filled)
    errors = Draft7Validator(schema).iter_errors(filled)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def _close(schema: Any) -> Any:
    """A structural schema of Kubernetes as a JSON schema in which an unknown field is an error."""
    if not isinstance(schema, dict):
        return schema
    found = {name: value for name, value in schema.items() if name != "format"}
    if found.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
        found["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in found:
        found["properties"] = {name: _close(value) for name, value in found["properties"].items()}
        if not found.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    for name in ("additionalProperties", "items"):
        if isinstance(found.get(name), dict):
            found[name] = _close(found[name])
    if found.get("nullable") and "type" in found:
        found["type"] = [found["type"], "null"]
    return found


def _fill(schema: dict[str, Any], value: Any) -> None:
    """Defaults in place of what is absent or null, as the API server fills them before it validates."""
    if isinstance(value, dict):
        for name in [name for name, inner in value.items() if inner is None]:
            del value[name]
        for name, inner in (schema.get("properties") or {}).items():
            if name not in value and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                _fill(inner, value[name])
    elif isinstance(value, list):
        for inner in value:
            _fill(schema.get("items") or {}, inner)
