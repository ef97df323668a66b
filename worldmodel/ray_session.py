"""Joining Ray: the cluster there is, or a quiet local one."""

from __future__ import annotations

import logging
import os


def join_ray(cpus: int | None = None, log_to_driver: bool = False) -> None:
    """Connect to Ray once: to the cluster of this job or machine (`RAY_ADDRESS`), else to a local one of our own.

    `cpus`: CPUs of a local Ray; None: all. `log_to_driver`: show what workers print. A local Ray is asked for by name,
    because the address file of a killed driver makes `ray.init(num_cpus=...)` fail with a misleading message.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING, log_to_driver=log_to_driver)
    else:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=log_to_driver,
        )
