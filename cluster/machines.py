"""The machines of the cluster that this head belongs to, as its cloud lists them, and how they are ended."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from worldmodel.machine.launcher import name_cloud

WORKER_TRIES = 20
"""Times that workers are listed and ended before the head ends nevertheless."""
SECONDS = 3.0
"""Time between two such tries."""


class Machines(Protocol):
    """What the keeper needs of a cluster's machines."""

    def list_kinds(self) -> dict[str, str]:
        """Identity of every machine that is there, and so costs money, to the name of its node type."""

    def end(self, say: Callable[[str], None]) -> None:
        """End Ray and all machines, the head last."""


class CloudMachines:
    """Those of a cloud, through the node provider of Ray's own launcher and the head's identity."""

    def __init__(self, config: Mapping[str, Any], shutdown: str) -> None:
        """`config`: the cluster's YAML as Ray left it on the head. `shutdown`: the command that ends this machine where
        the cloud does not."""
        from ray.autoscaler._private.providers import _get_node_provider

        self._provider = _get_node_provider(config["provider"], config["cluster_name"])
        self._shutdown = shutdown

    def list_kinds(self) -> dict[str, str]:
        """Machines that the cloud lists under this cluster's name."""
        from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

        found = self._provider.non_terminated_nodes({})
        return {node: self._provider.node_tags(node).get(TAG_RAY_USER_NODE_TYPE, "") for node in found}

    def end(self, say: Callable[[str], None]) -> None:
        """End Ray first, so that its autoscaler starts no machine again; then workers; then this machine."""
        stop_ray(say)
        self._end_workers(say)
        for _ in range(WORKER_TRIES):
            try:
                heads = self._list("head")
                if heads:
                    self._provider.terminate_nodes(heads)
            except Exception as error:  # noqa: BLE001  (whatever the cloud says: it is asked again, and said)
                say(f"the head is still there: {error}")
            time.sleep(SECONDS)
        say(f"the cloud did not end this machine: {self._shutdown}")
        subprocess.run(shlex.split(self._shutdown), check=False)

    def _list(self, kind: str) -> list[str]:
        from ray.autoscaler.tags import TAG_RAY_NODE_KIND

        return list(self._provider.non_terminated_nodes({TAG_RAY_NODE_KIND: kind}))

    def _end_workers(self, say: Callable[[str], None]) -> None:
        for _ in range(WORKER_TRIES):
            try:
                workers = self._list("worker")
                if not workers:
                    return
                self._provider.terminate_nodes(workers)
            except Exception as error:  # noqa: BLE001  (whatever the cloud says: it is asked again, and said)
                say(f"workers are still there: {error}")
            time.sleep(SECONDS)
        say("some workers may still be there: run `ray down` from the laptop")


class OwnMachines:
    """Machines that cost nothing and stay: only Ray ends."""

    def list_kinds(self) -> dict[str, str]:
        """None: nobody pays for them by the hour."""
        return {}

    def end(self, say: Callable[[str], None]) -> None:
        """End Ray here; the workers' Ray ends a minute after its head."""
        stop_ray(say)


def find_machines(config: Mapping[str, Any], shutdown: str) -> Machines:
    """Those of a cluster's YAML."""
    return OwnMachines() if name_cloud(config["provider"]) == "local" else CloudMachines(config, shutdown)


def stop_ray(say: Callable[[str], None]) -> None:
    """End Ray on this machine."""
    ended = subprocess.run(["ray", "stop", "--force"], capture_output=True, text=True, check=False)
    if ended.returncode:
        say(f"ray stop: {ended.stderr.strip() or ended.stdout.strip()}")
