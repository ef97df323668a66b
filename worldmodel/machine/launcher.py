"""Node providers for `ray up`: those of Ray with checks before the first machine, a fallback to on-demand machines, and
several zones on Google Cloud.

A cluster's YAML names one of them (`type: external`, `module: worldmodel.machine.launcher.aws`). The laptop and the
autoscaler on the head then use it instead of Ray's own class, of which it is a subclass.
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
"""The checkout, which also holds `cluster/`."""
TOKEN = "~/.ray/auth_token"
"""Where Ray reads the token, on every machine."""
ASKS = "asks for the cluster's token: paste what `ray get-auth-token` prints on this laptop"
CLOUDS = ("aws", "gcp", "azure")
PATIENCE = "on_demand_after_minutes"
"""Provider field: minutes without spot capacity after which an on-demand machine is requested; 0: never."""
SPOT = ("InstanceMarketOptions", "priority", "evictionPolicy", "billingProfile", "provisioningModel",
        "instanceTerminationAction")  # fmt: skip
"""Node settings of the clouds that request a spot machine."""
PAUSE = 600.0
"""Seconds between two refusals from which on they belong to different waits."""
NEEDS = "files_needed"
"""Provider field: local files that the head needs. `create_node` sees the provider's fields alone."""
Base: Any = object

# Ray adds two empty fields for external providers, and warns about them each time it reads the file.
logging.getLogger("ray.autoscaler._private.util").setLevel(logging.ERROR)


def name_cloud(provider: Mapping[str, Any]) -> str:
    """Ray's name for the cloud of a cluster's `provider`."""
    return str(provider.get("module", "")).rpartition(".")[2] or str(provider.get("type", ""))


def __getattr__(name: str) -> type:
    if name not in CLOUDS:
        raise AttributeError(name)
    return make_provider(name)


@functools.cache
def make_provider(cloud: str) -> type:
    """Ray's node provider for a cloud, extended. Imports that cloud's client."""
    from ray.autoscaler._private.providers import _NODE_PROVIDERS

    return type(cloud, (Provider, _NODE_PROVIDERS[cloud]({})), {})


class Provider(Base):
    """What our providers add to Ray's."""

    resources: dict[Any, Any]

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._refusals = Refusals()

    @classmethod
    def fillout_available_node_types_resources(cls, cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Ray's first call. Our files list all resources, so nothing is filled in."""
        with explained():
            check_settings(cluster_config)
        return cluster_config

    @classmethod
    def bootstrap_config(cls, cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Ray's first requests to the cloud: credentials, network, key pair."""
        with explained():
            config: dict[str, Any] = super().bootstrap_config(cluster_config)
        config["provider"][NEEDS] = list(cluster_config["file_mounts"].values())
        return config

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> Any:
        """Request machines: on the laptop the head, on the head workers."""
        if tags["ray-node-type"] != "head":
            return self._create_worker(node_config, tags, count)
        with explained():
            check_files(self.provider_config.get(NEEDS, ()))
            made = super().create_node(node_config, tags, count)
        print(f"the dashboard {ASKS}", flush=True)
        return made

    def _create_worker(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> Any:
        kind, minutes = tags["ray-user-node-type"], float(self.provider_config.get(PATIENCE, 0))
        if 0 < minutes <= self._refusals.count_minutes(kind):
            print(f"{kind}: no spot capacity for {minutes:g} minutes, requesting on demand", flush=True)
            node_config = drop_spot(node_config)
        try:
            made = super().create_node(node_config, tags, count)
        except Exception:
            self._refusals.note(kind)
            raise
        self._refusals.forget(kind)
        return made

    def _construct_clients(self) -> None:
        """Google Cloud's provider makes its clients here, for one zone."""
        super()._construct_clients()
        names = self.provider_config["availability_zone"]
        self.resources = {kind: Zones(one, names) for kind, one in self.resources.items()}


class Refusals:
    """How long a cloud has refused each node type."""

    def __init__(self) -> None:
        self._times: dict[str, tuple[float, float]] = {}

    def note(self, kind: str) -> None:
        """A request has failed. After a long pause the wait starts again at zero."""
        now = time.monotonic()
        first, last = self._times.get(kind, (now, now))
        self._times[kind] = (first if now - last < PAUSE else now, now)

    def forget(self, kind: str) -> None:
        """A request has succeeded."""
        self._times.pop(kind, None)

    def count_minutes(self, kind: str) -> float:
        """Minutes between the first refusal of this wait and the last; 0: none."""
        first, last = self._times.get(kind, (0.0, 0.0))
        return (last - first) / 60


def drop_spot(node_config: Any) -> Any:
    """The same machine on demand."""
    if isinstance(node_config, dict):
        return {name: drop_spot(value) for name, value in node_config.items() if name not in SPOT}
    return node_config


def check_settings(config: Mapping[str, Any]) -> None:
    """UserError where a setting is missing or wrong."""
    if unset := find_placeholders(config):
        raise UserError(
            f"unset: {', '.join(unset)}; set them at the top of the YAML, and see: worldmodel doctor --cluster FILE"
        )
    minutes = config["provider"].get(PATIENCE, 0)
    if not isinstance(minutes, int | float) or minutes < 0:
        raise UserError(f"provider.{PATIENCE}: found {minutes!r}, expected minutes, or 0 for never")
    _import("settings").parse_settings(config)


def check_files(paths: Iterable[str]) -> None:
    """UserError where a file is missing that the head needs."""
    absent = [path for path in paths if not Path(path).expanduser().exists()]
    if TOKEN in absent:
        raise UserError(f"no token at {TOKEN}; create it once: ray get-auth-token --generate")
    if absent:
        raise UserError(f"{', '.join(absent)}: not found in {Path.cwd()}; start from the checkout's folder")


@contextmanager
def explained() -> Iterator[None]:
    """Exit with one message if a check or the cloud refuses. Ray would catch an ordinary exception and continue."""
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
    """A module of `cluster/`, which is not an installed package."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return importlib.import_module(f"cluster.{name}")
