"""Ray's providers of machines, which refuse a start that cannot succeed before a machine is asked for; which take
machines on demand after some time without spot, where the file says so; and which ask several zones of Google Cloud.

A cluster's YAML names one of them (`type: external`, `module: worldmodel.machine.launcher.aws`). `ray up` and the
head's autoscaler then use it in place of Ray's own, of which it is a subclass.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worldmodel.doctor.cluster_files import find_placeholders
from worldmodel.errors import UserError
from worldmodel.machine.google_zones import Zones

ROOT = Path(__file__).parents[2]
"""The checkout, which holds `cluster/` as well."""
TOKEN = "~/.ray/auth_token"
"""Where Ray looks for the token, on every machine."""
CLOUDS = ("aws", "gcp", "azure")
PATIENCE = "on_demand_after_minutes"
"""Field of the provider: minutes without spot machines after which one on demand is taken; 0: never."""
SPOT = ("InstanceMarketOptions", "priority", "evictionPolicy", "billingProfile", "provisioningModel",
        "instanceTerminationAction")  # fmt: skip
"""Settings of the clouds that make a spot machine of a machine."""
PAUSE = 600.0
"""Seconds without a request after which an earlier refusal says nothing."""
NEEDS = "files_needed"
"""Field of the provider that carries the laptop's files to where the head's machine is asked for."""
logging.getLogger("ray.autoscaler._private.util").setLevel(
    logging.ERROR
)  # else two fields that Ray itself adds are told


def name_cloud(provider: Mapping[str, Any]) -> str:
    """What Ray calls the cloud of a cluster's `provider`."""
    return str(provider.get("module", "")).rpartition(".")[2] or str(provider.get("type", ""))


def __getattr__(name: str) -> type:
    if name not in CLOUDS:
        raise AttributeError(name)
    return make_provider(name)


@functools.cache
def make_provider(cloud: str) -> type:
    """Ray's provider of a cloud, with checks."""
    from ray.autoscaler._private.providers import _NODE_PROVIDERS

    parent = _NODE_PROVIDERS[cloud]({})

    class Provider(parent):  # type: ignore[misc, valid-type]
        def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
            super().__init__(provider_config, cluster_name)
            self.refusals = Refusals()

        @staticmethod
        def fillout_available_node_types_resources(cluster_config: dict[str, Any]) -> dict[str, Any]:
            with explained():
                check_settings(cluster_config)
            return cluster_config  # our files say what each machine has

        @staticmethod
        def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
            with explained():
                config = parent.bootstrap_config(cluster_config)
            config["provider"][NEEDS] = list(cluster_config["file_mounts"].values())
            return dict(config)

        def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> Any:
            if tags["ray-node-type"] != "head":
                return self._create_worker(node_config, tags, count)
            with explained():
                check_files(self.provider_config.get(NEEDS, ()))
                return super().create_node(node_config, tags, count)

        def _create_worker(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> Any:
            kind, minutes = tags["ray-user-node-type"], float(self.provider_config.get(PATIENCE, 0))
            if 0 < minutes <= self.refusals.count_minutes(kind):
                print(f"{kind}: no spot machine for {minutes:g} minutes: asking for one on demand", flush=True)
                node_config = drop_spot(node_config)
            try:
                made = super().create_node(node_config, tags, count)
            except Exception:
                self.refusals.note(kind)
                raise
            self.refusals.forget(kind)
            return made

        def _construct_clients(self) -> None:  # of Google Cloud's
            super()._construct_clients()
            names = self.provider_config["availability_zone"]
            zones = {kind: Zones(one, names) for kind, one in vars(self)["resources"].items()}
            self.resources = zones

    return Provider


class Refusals:
    """How long a cloud has refused machines of each node type."""

    def __init__(self) -> None:
        self._times: dict[str, tuple[float, float]] = {}

    def note(self, kind: str) -> None:
        """It has just refused one. After a longer pause, in which none was asked for, the count begins anew."""
        now = time.monotonic()
        first, last = self._times.get(kind, (now, now))
        self._times[kind] = (first if now - last < PAUSE else now, now)

    def forget(self, kind: str) -> None:
        """It has just given one."""
        self._times.pop(kind, None)

    def count_minutes(self, kind: str) -> float:
        """Minutes between the first refusal and the last; 0: none."""
        first, last = self._times.get(kind, (0.0, 0.0))
        return (last - first) / 60


def drop_spot(node_config: Any) -> Any:
    """The same machine on demand."""
    if isinstance(node_config, dict):
        return {name: drop_spot(value) for name, value in node_config.items() if name not in SPOT}
    return node_config


def check_settings(config: Mapping[str, Any]) -> None:
    """UserError where something is unset or wrong."""
    if unset := find_placeholders(config):
        raise UserError(
            f"unset: {', '.join(unset)}; set them at the top of the YAML, and see: worldmodel doctor --cluster FILE"
        )
    minutes = config["provider"].get(PATIENCE, 0)
    if not isinstance(minutes, int | float) or minutes < 0:
        raise UserError(f"provider.{PATIENCE}: found {minutes!r}, expected minutes, or 0 for never")
    _import("settings").parse_settings(config)


def check_files(paths: Iterable[str]) -> None:
    """UserError where a file is missing that goes to the head."""
    absent = [path for path in paths if not Path(path).expanduser().exists()]
    if TOKEN in absent:
        raise UserError(f"there is no token at {TOKEN}; make it once: ray get-auth-token --generate")
    if absent:
        raise UserError(f"{', '.join(absent)}: not found in {Path.cwd()}; start from the checkout's folder")


@contextmanager
def explained() -> Iterator[None]:
    """End the launcher with one message where something is missing, or where a cloud refuses."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        reason = _import("launch_errors").explain(text)
        if not reason:
            raise
        sys.exit(f"error: {reason} ({text})")


def _import(name: str) -> Any:
    """A module of `cluster/`, which is no installed package."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return importlib.import_module(f"cluster.{name}")
