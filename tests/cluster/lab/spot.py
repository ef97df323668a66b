"""The tests' spot machines: a head and three workers of `own-machines.yaml`, each with AWS's metadata service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.lab.hosts import Host
from tests.cluster.lab.laptop import DASHBOARD, Laptop
from tests.cluster.lab.machine import GATEWAY, make_key, make_link
from tests.cluster.lab.metadata import Announcer, MetadataServer, serve_metadata
from tests.cluster.lab.store import KEY, SECRET, read_json, serve_store
from tests.cluster.lab.waiting import Clock

HEAD, WORKERS = "10.77.0.11", ("10.77.0.12", "10.77.0.13", "10.77.0.14")
BUCKET = "lab"
CREDENTIALS = f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
JOIN = f"cd ~/worldmodel && . cluster/environment.sh && ray start --address={HEAD}:6379"
"""What the launcher runs on a worker."""


@dataclass(kw_only=True)
class Machines:
    """The lab."""

    laptop: Laptop
    hosts: dict[str, Host]
    """By name."""
    announcers: dict[str, Announcer]
    """What each host's cloud says of it."""
    store: str
    clock: Clock

    def tell(self) -> str:
        """The logs of all hosts."""
        return "".join(host.read_logs() for host in self.hosts.values())

    def read_run(self, name: str) -> dict[str, Any]:
        """A run's record, by its folder below the storage."""
        return read_json(self.store, BUCKET, f"runs/{name}/run.json")

    def announce(self, name: str, seconds: float) -> None:
        """The cloud says that it takes a machine away."""
        self.announcers[name].announce(seconds)
        self.clock.note(f"{name} is told that it ends in {seconds:g} s")

    def end(self, name: str) -> None:
        """It does."""
        self.hosts[name].stop()
        self.clock.note(f"{name} ended")

    def replace(self, name: str) -> None:
        """Another machine takes a lost one's place."""
        self.announcers[name].ends = None
        status, said = self.hosts[name].start().run(JOIN, 60, environment={"RAY_HEAD_IP": HEAD})
        assert status == 0, said
        self.clock.note(f"{name} was replaced")

    def list_nodes(self) -> set[str]:
        """Addresses of the machines that Ray has."""
        status, said = self.laptop.try_to(
            f"ray list nodes --address {DASHBOARD} --format json --filter state=ALIVE 2>/dev/null", 60
        )
        return {node["node_ip"] for node in json.loads(said)} if status == 0 and said.startswith("[") else set()


@contextmanager
def serve_machines(folder: Path) -> Iterator[Machines]:
    """Four machines, a store, and a laptop whose key opens them."""
    make_link()
    private, public = make_key(folder / "keys")
    with serve_store(folder / "store", BUCKET) as store, serve_metadata(GATEWAY) as metadata:
        announcers: dict[str, Announcer] = {}
        hosts = [_start(folder, address, public, metadata, announcers) for address in (HEAD, *WORKERS)]
        laptop = Laptop(folder / "laptop", {"AWS_ENDPOINT_URL_S3": store, "PYTHONUNBUFFERED": "1"})
        for host in (*hosts, laptop.host):
            (host.home / ".aws").mkdir()
            (host.home / ".aws/credentials").write_text(CREDENTIALS)
        (laptop.host.home / ".ssh/worldmodel_ed25519").write_bytes(private.read_bytes())
        (laptop.host.home / ".ssh/worldmodel_ed25519").chmod(0o600)
        changes = {"metadata": {"endpoint": store}, "provider": {"worker_ips": list(WORKERS)}, "max_workers": 3}
        laptop.write_cluster("own-machines.yaml", "own_machines.yaml", changes)
        try:
            yield Machines(
                laptop=laptop, hosts={host.name: host for host in hosts}, announcers=announcers, store=store,
                clock=Clock(),
            )  # fmt: skip
        finally:
            for host in (*hosts, laptop.host):
                host.stop()


def _start(folder: Path, address: str, public: str, metadata: MetadataServer, announcers: dict[str, Announcer]) -> Host:
    name = f"spot{address.rsplit('.', 1)[-1]}"
    announcers[name], url = metadata.add(name, "aws")
    resources = json.dumps({"CPU": 0 if address == HEAD else 1})
    return Host(
        name=name, addresses=(address,), folder=folder / address, keys=public,
        environment={
            "RAY_OVERRIDE_RESOURCES": resources, "PYTHONPATH": "/root/worldmodel", "WORLDMODEL_METADATA": url,
            "RAY_worker_niceness": "0",  # these machines share their cores with others
        },
    ).start()  # fmt: skip
