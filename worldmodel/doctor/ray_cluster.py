"""Whether Ray answers, what its machines say of themselves, and whether machines that it should start do start."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from worldmodel.doctor.check import Check, failed, passed, place_at, skipped, warned
from worldmodel.doctor.machine import MachineFacts
from worldmodel.doctor.machines import count_machines
from worldmodel.doctor.on_machine import Errand, MachineReport, examine_machine
from worldmodel.doctor.store_errors import LASTING, explain_refusal
from worldmodel.errors import UserError
from worldmodel.run.crew import share_environment

NAME, STARTED = "Ray", "machines"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 120.0
"""Longest wait for a machine: it may have to fetch the job's code first."""
REHEARSAL_SECONDS = 300.0
"""Longest wait for a rehearsal: a GPU's kernels are compiled in it for the first time."""
LOOK_SECONDS = 5.0
"""Time between two looks at what the autoscaler met."""
AUTOSCALER_LOG = Path("/tmp/ray/session_latest/logs/monitor.log")
"""On the head. Ray's status says that a launch failed; its log alone says why."""
_FAILED_LAUNCH = re.compile(r"Failed to launch \d+ nodes of type (.+)")
CLOCK_TRIES = 3
"""Times that a clock is asked; the shortest answer tells most."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the machines of a Ray say."""

    facts: tuple[MachineFacts, ...]
    checks: tuple[Check, ...]
    skews: dict[str, float]
    """Seconds that a machine's clock is ahead of this one's."""


def check_address(address: str) -> Check | None:
    """A failed line where a Ray that is named by `RAY_ADDRESS` cannot be joined from here; else None."""
    if address in ("", "auto", "local"):
        return None
    if address.startswith(("http://", "https://")):
        return failed(
            NAME, f"RAY_ADDRESS is {address}: the address for jobs, which only submits",
            "run it on the cluster: ray job submit --working-dir . -- worldmodel doctor ...",
        )  # fmt: skip
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 6379), timeout=CONNECT_SECONDS):
            return None
    except (OSError, ValueError) as error:
        return failed(
            NAME, f"no Ray answers at RAY_ADDRESS={address} ({error})",
            "start it (`ray up`, or as README.md says), open the port, or unset RAY_ADDRESS to use this machine alone",
        )  # fmt: skip


def join(address: str) -> Check:
    """Join the Ray at `RAY_ADDRESS`; where that fails, which versions or rights are at odds."""
    import ray

    from worldmodel.ray_session import join_ray

    if refused := check_address(address):
        return refused
    try:
        join_ray()
    except UserError as error:
        return failed(NAME, str(error), "do what the message says")
    except Exception as error:  # noqa: BLE001  (Ray raises errors of many kinds here: each one is told)
        return explain_joining(address, error)
    return passed(NAME, f"Ray {ray.__version__} at {address}: {count_machines(len(list_alive()))}")


def explain_joining(address: str, error: BaseException) -> Check:
    """Why Ray at an address did not take this process."""
    text = " ".join(str(error).split())
    if "Version mismatch" in text:
        return failed(
            NAME, f"Ray at {address} and this process differ: {text.split('Version mismatch: ')[-1]}",
            "use the same image, or the same Python and Ray, here and on the cluster",
        )  # fmt: skip
    if "token" in text.lower() or "unauthenticated" in text.lower():
        return failed(
            NAME, f"Ray at {address} refuses: it wants a token ({text[:200]})",
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or ~/.ray/auth_token) to the cluster's token, which "
            "`ray get-auth-token` prints where the cluster was started",
        )  # fmt: skip
    return failed(NAME, f"Ray at {address} cannot be joined: {type(error).__name__}: {text[:300]}", "see the message")


def list_alive() -> list[dict[str, Any]]:
    """The machines of the Ray that was joined."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def survey(errand: Errand, own: str) -> Survey:
    """Ask every machine but the one with id `own`, all at once. Machines that do not answer are failed lines."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    environment = share_environment()
    answers: dict[Any, tuple[str, Any]] = {}
    for node in list_alive():
        if node["NodeID"] == own:
            continue
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actor = ray.remote(Visitor).options(num_cpus=0, scheduling_strategy=strategy).remote([environment])
        name = node["NodeManagerHostname"]
        if name in (socket.gethostname(), *(other for other, _ in answers.values())):
            name = f"{name} ({node['NodeManagerAddress']}, {node['NodeID'][:6]})"
        answers[actor.examine.remote(errand.for_node(node["Resources"]))] = (name, actor)
    try:
        return _collect(answers)
    finally:
        for _, actor in answers.values():
            ray.kill(actor)


def _collect(answers: Mapping[Any, tuple[str, Any]]) -> Survey:
    import ray

    done, late = ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_SECONDS) if answers else ([], [])
    facts, checks, skews = [], [], {}
    for answer in done:
        name, actor = answers[answer]
        try:
            report: MachineReport = ray.get(answer)
            skews[name] = measure_skew(partial(_ask_clock, actor))
        except Exception as error:  # noqa: BLE001  (the edge to another machine: whatever broke there is told)
            checks.append(_explain_silence(name, f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"))
            continue
        facts.append(report.facts)
        checks += place_at(name, report.checks)
    checks += [_explain_silence(answers[a][0], f"no answer within {ANSWER_SECONDS:.0f} s") for a in late]
    return Survey(facts=tuple(facts), checks=tuple(checks), skews=skews)


def _explain_silence(name: str, why: str) -> Check:
    return failed(
        STARTED, f"{name} could not be looked at: {why}",
        "look at its logs (/tmp/ray/session_latest/logs); the code or a package may be missing there",
    )  # fmt: skip


def measure_skew(ask: Callable[[], float]) -> float:
    """Seconds that another clock is ahead of this one, told from the quickest of some answers."""
    found = []
    for _ in range(CLOCK_TRIES):
        before = time.time()
        theirs = ask()
        after = time.time()
        found.append((after - before, theirs - (before + after) / 2))
    return min(found)[1]


def _ask_clock(actor: Any) -> float:
    import ray

    return float(ray.get(actor.read_clock.remote()))


class Visitor:
    """Looks at one machine, in a process of its own there that ends afterwards."""

    def __init__(self, environment: list[Any]) -> None:
        import ray

        os.environ.update(ray.get(environment[0]))
        # Ray hides the GPUs from whoever holds none; this process computes on them for a moment.
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)

    def examine(self, errand: Errand) -> MachineReport:
        """What there is here."""
        return examine_machine(errand)

    def read_clock(self) -> float:
        """Seconds since 1970."""
        return time.time()


def check_started(needs: Mapping[str, float], wait_seconds: float) -> Iterator[Check]:
    """Whether there is, or within a time comes, a machine that a trial fits on; what kept one from starting.

    `needs`: CPUs and GPUs of a worker of a trial. One is asked for by a task that needs as much, which any autoscaler
    hears, and which asks for nothing any more once it has run.
    """
    began, wanted = time.monotonic(), ", ".join(f"{amount:g} {kind}" for kind, amount in needs.items())
    count = sum(_fits(node["Resources"], needs) for node in list_alive())
    if count:
        yield passed(STARTED, f"{count_machines(count)} that a trial ({wanted}) fits on")
    elif not wait_seconds:
        yield skipped(
            STARTED, f"none with {wanted} is up; `worldmodel doctor --wait-minutes N` has one started and looked at"
        )
    elif (reason := _await_machine(needs, wait_seconds)) is None:
        yield passed(STARTED, f"one with {wanted} came after {time.monotonic() - began:.0f} s")
    else:
        yield explain_no_machine(wanted, reason, wait_seconds)


def _fits(resources: Mapping[str, float], needs: Mapping[str, float]) -> bool:
    return all(resources.get(kind, 0.0) >= amount for kind, amount in needs.items())


def _await_machine(needs: Mapping[str, float], wait_seconds: float) -> str | None:
    """None once a machine came; else why none does: what the cloud said, or "" where the time is over."""
    import ray

    task = ray.remote(max_calls=1)(_name_machine).options(num_cpus=needs.get("CPU", 0), num_gpus=needs.get("GPU", 0))
    answer, deadline = task.remote(), time.monotonic() + wait_seconds
    reason, start = "", AUTOSCALER_LOG.stat().st_size if AUTOSCALER_LOG.exists() else 0
    while time.monotonic() < deadline:
        if ray.wait([answer], timeout=min(LOOK_SECONDS, wait_seconds))[0]:
            return None
        reason = next(reversed(read_launch_failures(start)), reason)
        if reason and explain_refusal(reason) in LASTING:
            break
    ray.cancel(answer, force=True)
    return reason


def _name_machine() -> str:
    return socket.gethostname()


def explain_no_machine(wanted: str, reason: str, seconds: float) -> Check:
    """Why no machine came, from what the cloud said; nothing said: where to look."""
    if not reason:
        return failed(
            STARTED, f"no machine with {wanted} within {seconds:.0f} s, and the cloud gave no reason",
            "look at `ray status` and the autoscaler's log on the head (quota, capacity, set-up commands); "
            "`ray down` ends what runs",
        )  # fmt: skip
    refusal = explain_refusal(reason)
    found = f"no machine with {wanted} could be started: {reason[:300]}"
    if refusal is None:
        return failed(STARTED, found, "see the message, and `ray status`; `ray down` ends what runs")
    return failed(STARTED, f"{found} ({refusal.found})", refusal.remedy)


def read_launch_failures(start: int) -> list[str]:
    """Refusals in the autoscaler's log from byte `start` on, the newest last; none away from the head."""
    try:
        with AUTOSCALER_LOG.open("rb") as file:
            file.seek(start)
            return _FAILED_LAUNCH.findall(file.read().decode(errors="replace"))
    except OSError:
        return []


def check_open() -> Iterator[Check]:
    """A cluster without a token runs whatever is sent to it."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        yield passed("token", "Ray asks for a token")
    else:
        yield warned(
            "token", "Ray asks for no token: whoever reaches its ports runs code",
            "make one (`ray get-auth-token --generate`) and start Ray with RAY_AUTH_MODE=token",
        )  # fmt: skip


def rehearse_there(storage: str, gpus: float) -> list[Check]:
    """A rehearsal on a machine that a trial fits on, holding what a trial would."""
    import ray

    task = ray.remote(max_calls=1)(_rehearse).options(num_cpus=1, num_gpus=gpus, max_retries=0)
    answer = task.remote(storage, [share_environment()])
    done, _ = ray.wait([answer], timeout=REHEARSAL_SECONDS)
    if not done:
        ray.cancel(answer, force=True)
        return [
            failed(
                "rehearsal", f"it did not end within {REHEARSAL_SECONDS:.0f} s",
                "other jobs may hold all machines: see `ray status`; without it: `worldmodel doctor --no-rehearse`",
            )
        ]  # fmt: skip
    machine, checks = ray.get(answer)
    return place_at(machine, checks)


def _rehearse(storage: str, environment: list[Any]) -> tuple[str, list[Check]]:
    import ray

    from worldmodel.doctor.rehearsal import rehearse

    os.environ.update(ray.get(environment[0]))
    return socket.gethostname(), list(rehearse(storage))
