"""Joining Ray: the cluster there is, or a quiet local one."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from worldmodel.errors import UserError

TRAIN = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "45",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
}
"""How soon Ray Train notices that workers have ended, that a machine has a notice, that a worker hangs, and that the
machines it counts on are gone; its own patience is minutes."""


def is_on_cluster() -> bool:
    """True if work goes to a Ray that may have machines other than this one."""
    ray = sys.modules.get("ray")
    return bool(os.environ.get("RAY_ADDRESS")) or (ray is not None and ray.is_initialized())


def join_ray(cpus: int | None = None, log_to_driver: bool = False) -> None:
    """Connect to Ray once: to the cluster of this job or machine (`RAY_ADDRESS`), else to a local one of our own.

    `cpus`: CPUs of a local Ray; None: all. `log_to_driver`: show what workers print. A local Ray is asked for by name,
    because the address file of a killed driver makes `ray.init(num_cpus=...)` fail with a misleading message.

    Raises:
        UserError: `RAY_ADDRESS` is the one for jobs, which no process joins.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    for name, value in TRAIN.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS={address} is the address for jobs, which only submits: run this on the cluster by "
            "`ray job submit --working-dir . -- COMMAND`, or here after `unset RAY_ADDRESS`"
        )
    if address:
        ray.init(logging_level=logging.WARNING, log_to_driver=log_to_driver)
    else:
        make_token()
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=log_to_driver,
        )


def make_token() -> None:
    """Make the token of Ray's processes where Ray would, which lets every account of the machine read it."""
    elsewhere = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if elsewhere or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    path = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # there already, whole, or a disk that cannot be written: Ray will say so
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.read_text().strip():
            path.unlink()
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # of mode 0600
            file.write(secrets.token_hex(32))
            file.flush()
            os.link(file.name, path)
    with suppress(OSError):  # mounted from elsewhere
        path.chmod(0o600)
