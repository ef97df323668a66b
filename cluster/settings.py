"""What a cluster's YAML says under `metadata`, read on its head; run, it prints the environment that jobs inherit.

`ray up` leaves the YAML on the head. Jobs inherit the environment in which Ray is started, so the shell that starts Ray
evaluates what this prints: `eval "$(python -m cluster.settings)"`. Keys from a secret store pass the same way: they
stand in no file and in no command line.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.secret_store import SecretError, read_secret
from worldmodel.doctor.cluster_files import find_placeholders
from worldmodel.errors import UserError
from worldmodel.machine.launcher import name_cloud

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where Ray's launcher leaves a cluster's YAML on its head."""
WANDB, STORE = ("WANDB_API_KEY",), ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""Environment variables that are fetched from the cloud's secret store where they are not set: W&B's key always, those
of an S3 store outside AWS. On AWS they would take the place of the machine's identity."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """The settings of a cluster that are ours."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    """URI of games or blocks, which all machines reach."""
    storage: str
    """URI below which grids and runs lie."""
    endpoint: str = ""
    """URL of an S3 store that is not AWS's; empty: AWS's own."""
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each trial that does not say so itself."""
    preset: str = ""
    """Preset of trials that name none; empty: the program's own."""
    head_idle_minutes: Annotated[float, Field(ge=0)] = 30.0
    """Minutes without a job after which the cluster ends itself, head included; 0: never."""
    budget_hours: Positive | None = None
    """Hours after which it ends itself, jobs or not; None: no limit."""
    budget_usd: Positive | None = None
    """Dollars of all its machines after which it ends itself, jobs or not; every node type that may have a machine then
    needs a price. None: no limit."""
    dollars_per_hour: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Dollars per hour of one machine of each node type; a type that is missing has no known price."""
    account: str = ""
    """Azure's storage account, for az://; empty: none."""
    key_vault: str = ""
    """Name of the Azure Key Vault that holds the keys; empty: none."""
    identities: dict[str, str] = {}
    """Names that the YAML uses further down."""


def read_config(path: Path = BOOTSTRAP) -> dict[str, Any]:
    """A cluster's YAML. UserError where it is missing or no mapping."""
    try:
        config = yaml.safe_load(path.expanduser().read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({error}): this is the file that `ray up` leaves on a head") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no cluster: expected the mapping that `ray up` leaves on a head")
    return config


def parse_settings(config: Mapping[str, Any]) -> Settings:
    """Its settings. UserError names all that are unknown, wrong or left at their placeholder."""
    found = config.get("metadata") or {}
    if unset := find_placeholders(found):
        raise UserError(f"the cluster's YAML leaves unset, under metadata: {', '.join(unset)}: set them at its top")
    try:
        settings = Settings.model_validate(found)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"the cluster's YAML, under metadata: {problems}") from error
    if settings.budget_usd is not None and (unpriced := list_unpriced(config, settings)):
        raise UserError(
            f"the cluster's YAML, under metadata: budget_usd {settings.budget_usd:g} cannot be kept, for "
            f"dollars_per_hour has no price of {', '.join(unpriced)}: add it, or use budget_hours"
        )
    return settings


def list_unpriced(config: Mapping[str, Any], settings: Settings) -> list[str]:
    """Node types that may have a machine, and no known price. A person's own machines cost nothing."""
    if name_cloud(config["provider"]) == "local":
        return []
    kinds = config.get("available_node_types", {})
    possible = [name for name in kinds if name == config.get("head_node_type") or kinds[name].get("max_workers", 1)]
    return [name for name in possible if name not in settings.dollars_per_hour]


def list_variables(config: Mapping[str, Any], settings: Settings) -> Iterator[tuple[str, str]]:
    """Names and values of the environment variables that the settings stand for."""
    kind = name_cloud(config["provider"])
    yield "WORLDMODEL_DATA", settings.data
    yield "WORLDMODEL_STORAGE", settings.storage
    if settings.endpoint:
        yield "AWS_ENDPOINT_URL_S3", settings.endpoint
    if settings.account:
        yield "AZURE_STORAGE_ACCOUNT", settings.account
    if settings.gpus_per_trial:
        yield "WORLDMODEL_GPUS_PER_TRIAL", f"{settings.gpus_per_trial:g}"
    if settings.preset:
        yield "WORLDMODEL_PRESET", settings.preset
    if kind != "local":
        yield "WORLDMODEL_PROVIDER", kind
    if machines := count_machines(config):
        yield "WORLDMODEL_MACHINES", json.dumps(machines)
    price = price_gpu(config, settings)
    if price is not None:
        yield "WORLDMODEL_PRICE_PER_HOUR", f"{price:.4g}"


def count_machines(config: Mapping[str, Any]) -> list[dict[str, float]]:
    """What the cluster may start beside its head: count, CPUs and GPUs of each kind, in the file's order."""
    found, room = [], config.get("max_workers", 0)
    for name, kind in config.get("available_node_types", {}).items():
        resources, count = kind.get("resources") or {}, min(room, kind.get("max_workers", 0))
        if name != config.get("head_node_type") and resources and count:
            found.append({"count": count, "CPU": resources.get("CPU", 0), "GPU": resources.get("GPU", 0)})
            room -= count
    return found


def price_gpu(config: Mapping[str, Any], settings: Settings) -> float | None:
    """Dollars per hour of one GPU; None where the machines that may be started have several prices, or none."""
    found = set()
    for name, kind in config.get("available_node_types", {}).items():
        gpus = (kind.get("resources") or {}).get("GPU", 0)
        if gpus and kind.get("max_workers", 1):
            dollars = settings.dollars_per_hour.get(name)
            found.add(None if dollars is None else dollars / gpus)
    return found.pop() if len(found) == 1 else None


def find_secrets(config: Mapping[str, Any], settings: Settings) -> Iterator[tuple[str, str]]:
    """Names and values of the keys that the cloud's secret store has and the environment lacks. Never fails: what is
    missing is said on stderr, and W&B then works offline."""
    is_foreign = name_cloud(config["provider"]) != "aws" and settings.storage.startswith("s3://")
    for name in (*WANDB, *(STORE if is_foreign else ())):
        if os.environ.get(name):
            continue
        try:
            value = read_secret(name, config["provider"], settings.key_vault)
        except SecretError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        yield name, value


def main() -> int:
    """Print `export` lines; the exit status is 2 where the settings cannot be used."""
    try:
        config = read_config()
        settings = parse_settings(config)
        found = [*list_variables(config, settings), *find_secrets(config, settings)]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in found:
        print(f"export {name}={shlex.quote(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
