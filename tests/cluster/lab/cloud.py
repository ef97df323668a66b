"""Amazon's EC2 on one machine: moto answers the API, and each instance that it says runs is a host.

An instance is switched on with the addresses that the API dealt it and with its key pair's public key; it is switched
off when the API says terminated or stopped; one that shuts itself down is then stopped or terminated, as it was
launched. On 169.254.169.254 an instance reads who it is and the credentials of its profile.

As at a real cloud, UserData runs late (cloud-init's final stage comes after SSH answers), and the API refuses machines
as long as a test says so (`Cloud.refusals`).
"""

from __future__ import annotations

import base64
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3

from tests.cluster.lab.hosts import BIN, Host
from tests.cluster.lab.machine import GATEWAY, call

REGION, PORT = "us-west-2", 5566
ENDPOINT = f"http://{GATEWAY}:{PORT}"
METADATA = "169.254.169.254"
ON, OFF = ("pending", "running"), ("shutting-down", "terminated", "stopping", "stopped")
GPU_MACHINES = ("p4d", "p4de", "g6")
LOOK_SECONDS = 0.5
USER_DATA_SECONDS = 40
"""Seconds between the first SSH login and UserData: enough for the launcher to set the machine up before."""
NO_ROLE = (
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
    "The provided credentials do not have permission to create the service-linked role for EC2 Spot Instances.",
)
NO_CAPACITY = (
    "InsufficientInstanceCapacity",
    "We currently do not have sufficient capacity in the Availability Zone you requested.",
)


class Cloud:
    """The instances of one region, and the hosts that they are."""

    def __init__(self, folder: Path, key: str, secret: str, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.key, self.secret = key, secret
        self.hosts: dict[str, Host] = {}
        self.seen: dict[str, list[tuple[float, str]]] = {}
        """States of each instance, with the time at which each was first seen."""
        self.known: dict[str, dict[str, Any]] = {}
        """Instances as last described, by their private address: metadata must answer at once on a busy machine."""
        self.notices: set[str] = set()
        """Instances that were told that they will be taken away."""
        self.refusals: dict[str, tuple[str, str]] = {}
        """Error code and message for requests of a market: spot, on-demand."""
        self.refused: list[tuple[str, str]] = []
        """Market and error code of each request refused."""
        self.failures: list[BaseException] = []
        self._environment = dict(environment)
        self._lock, self._is_over = threading.Lock(), threading.Event()
        self.ec2 = self.open_client("ec2")

    def open_client(self, service: str) -> Any:
        """A boto3 client of the cloud's API."""
        return boto3.client(
            service, endpoint_url=ENDPOINT, region_name=REGION, aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )  # fmt: skip

    def list_instances(self) -> list[dict[str, Any]]:
        """All instances there ever were, as the API describes them."""
        pages = self.ec2.get_paginator("describe_instances").paginate()
        return [instance for page in pages for found in page["Reservations"] for instance in found["Instances"]]

    def find(self, kind: str, *states: str) -> list[dict[str, Any]]:
        """Instances of Ray's node kind (head, worker) in some state; none named: pending or running."""
        wanted = states or ON
        return [
            instance for instance in self.list_instances()
            if instance["State"]["Name"] in wanted and read_tags(instance).get("ray-node-type") == kind
        ]  # fmt: skip

    def add_identities(self, *names: str) -> None:
        """Make the instance profiles that `infra/` makes, without rights: nothing here asks for any."""
        iam = self.open_client("iam")
        for name in names:
            iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
            iam.create_instance_profile(InstanceProfileName=name)
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)

    def reclaim(self, identity: str) -> None:
        """Take a spot instance away: its host goes without a word, and the API says terminated afterwards."""
        self.hosts[identity].stop()
        self.ec2.terminate_instances(InstanceIds=[identity])

    def watch(self) -> None:
        """Make the hosts follow the API until `end`."""
        while not self._is_over.wait(LOOK_SECONDS):
            try:
                self._follow()
            except BaseException as error:  # noqa: BLE001  (raised by the test that looks)
                self.failures.append(error)

    def end(self) -> None:
        """Switch everything off."""
        self._is_over.set()
        with self._lock:
            for host in self.hosts.values():
                host.stop()

    def tell(self) -> str:
        """What the API says, what went wrong here, and the logs of the hosts."""
        states = "".join(f"{identity}: {seen}\n" for identity, seen in self.seen.items())
        failures = "".join(f"{failure!r}\n" for failure in self.failures)
        return states + failures + "".join(host.read_logs() for host in self.hosts.values())

    def _follow(self) -> None:
        for instance in self.list_instances():
            identity, state = instance["InstanceId"], instance["State"]["Name"]
            self.known[instance.get("PrivateIpAddress", "")] = instance
            seen = self.seen.setdefault(identity, [])
            if not seen or seen[-1][1] != state:
                seen.append((time.monotonic(), state))
            with self._lock:
                self._follow_one(identity, state, instance)

    def _follow_one(self, identity: str, state: str, instance: dict[str, Any]) -> None:
        host = self.hosts.get(identity)
        if self._is_over.is_set():
            return
        if state in ON and host is None:
            self.hosts[identity] = self._make_host(instance).start()
            self._run_user_data(identity)
        elif state in ON and host is not None and not host.is_up:
            self._end_instance(identity, host, seen=self.seen[identity])
        elif state in OFF and host is not None and host.is_up:
            host.stop()

    def _end_instance(self, identity: str, host: Host, seen: list[tuple[float, str]]) -> None:
        """What follows when a machine shut itself down, or what starts one that was stopped."""
        if len(seen) > 1 and seen[-2][1] in OFF:  # started again by the API
            host.start()
            seen.append((time.monotonic(), "started"))
            return
        host.stop()
        found = self.ec2.describe_instance_attribute(InstanceId=identity, Attribute="instanceInitiatedShutdownBehavior")
        behavior = found.get("InstanceInitiatedShutdownBehavior", {}).get("Value", "stop")
        end = self.ec2.terminate_instances if behavior == "terminate" else self.ec2.stop_instances
        end(InstanceIds=[identity])

    def _run_user_data(self, identity: str) -> None:
        found = self.ec2.describe_instance_attribute(InstanceId=identity, Attribute="userData")["UserData"]
        if text := base64.b64decode(found.get("Value", "")).decode():
            late = f"sleep {USER_DATA_SECONDS}\n{text.removeprefix('#!/bin/sh')}"
            self.hosts[identity].begin(late)

    def _make_host(self, instance: dict[str, Any]) -> Host:
        identity = instance["InstanceId"]
        addresses = (instance["PrivateIpAddress"], instance.get("PublicIpAddress"))
        keys = self.ec2.describe_key_pairs(KeyNames=[instance["KeyName"]], IncludePublicKey=True)["KeyPairs"]
        return Host(
            name=f"i{identity[-8:]}", addresses=tuple(filter(None, addresses)), folder=self.folder / identity,
            keys="".join(key["PublicKey"].strip() + "\n" for key in keys), environment=self._environment,
            programs=BIN / "gpu" if instance["InstanceType"].startswith(GPU_MACHINES) else BIN,
        )  # fmt: skip


def read_tags(instance: dict[str, Any]) -> dict[str, str]:
    """An instance's tags."""
    return {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}


@contextmanager
def run_cloud(folder: Path, key: str, secret: str, environment: Mapping[str, str]) -> Iterator[Cloud]:
    """A cloud with no instances; every host that it switches on has `environment` in its shells."""
    os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address=GATEWAY, port=PORT, verbose=False)
    server.start()
    cloud = Cloud(folder, key, secret, environment)
    give_back = _refuse_where_told(cloud)
    with suppress(Exception):
        call("ip", "address", "add", f"{METADATA}/32", "dev", "lo")
    metadata = ThreadingHTTPServer((METADATA, 80), _make_handler(cloud))
    for work in (metadata.serve_forever, cloud.watch):
        threading.Thread(target=work, daemon=True).start()
    try:
        yield cloud
    finally:
        cloud.end()
        metadata.shutdown()
        metadata.server_close()
        server.stop()
        give_back()


def _refuse_where_told(cloud: Cloud) -> Callable[[], None]:
    """Make moto refuse what `cloud.refusals` names; returns how to undo it."""
    from moto.ec2.exceptions import EC2ClientError
    from moto.ec2.models.instances import InstanceBackend

    launch = InstanceBackend.run_instances

    def run_instances(self: Any, *words: Any, **options: Any) -> Any:
        market = options.get("instance_market_options") or "on-demand"
        if refusal := cloud.refusals.get(market):
            cloud.refused.append((market, refusal[0]))
            raise EC2ClientError(*refusal)
        return launch(self, *words, **options)

    InstanceBackend.run_instances = run_instances
    return partial(setattr, InstanceBackend, "run_instances", launch)


def _make_handler(cloud: Cloud) -> type[BaseHTTPRequestHandler]:
    class Metadata(BaseHTTPRequestHandler):
        """Instance metadata, told by the address that asks."""

        def do_PUT(self) -> None:
            self._say("token" if self.path == "/latest/api/token" else None)

        def do_GET(self) -> None:
            self._say(describe_instance(cloud, self.client_address[0], self.path))

        def _say(self, text: str | None) -> None:
            content = (text or "").encode()
            self.send_response(404 if text is None else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: object) -> None:
            """Nothing."""

    return Metadata


def describe_instance(cloud: Cloud, address: str, path: str) -> str | None:
    """What the metadata service says to the instance at an address; None where it knows nothing of that."""
    found = cloud.known.get(address)
    if found is None:
        return None
    profile = found.get("IamInstanceProfile", {}).get("Arn", "").rsplit("/", 1)[-1]
    credentials = {
        "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": cloud.key, "SecretAccessKey": cloud.secret,
        "Token": "", "LastUpdated": "2020-01-01T00:00:00Z", "Expiration": "2099-01-01T00:00:00Z",
    }  # fmt: skip
    facts = {
        "instance-id": found["InstanceId"], "instance-type": found["InstanceType"], "placement/region": REGION,
        "placement/availability-zone": found["Placement"]["AvailabilityZone"], "local-ipv4": address,
        "instance-life-cycle": found.get("InstanceLifecycle", "on-demand"),
    }  # fmt: skip
    if profile:
        facts |= {"iam/security-credentials": profile, f"iam/security-credentials/{profile}": json.dumps(credentials)}
    if found["InstanceId"] in cloud.notices:
        facts["spot/instance-action"] = json.dumps({"action": "terminate", "time": "2099-01-01T00:00:00Z"})
    return facts.get(path.removeprefix("/latest/meta-data/").rstrip("/"))
