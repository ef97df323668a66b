"""Checks before a first `ray up` on any cloud: Ray's token and the SSH key of the machines.

`--fix` makes both. Own machines are asked whether they accept the key; putting it there is a command for a person.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from worldmodel.doctor.check import Check, failed, passed
from worldmodel.doctor.cluster_files import KUBERAY, PLACEHOLDER, read_documents
from worldmodel.ray_session import make_token

TOKEN, KEY, MACHINE = "Ray's token", "SSH key", "machine"
SECONDS = 5
"""Time that a machine has to answer."""
SSH = (
    "ssh", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", f"ConnectTimeout={SECONDS}",
    "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
)  # fmt: skip
"""As Ray's launcher asks: its own key alone, and no known hosts."""


def check_steps(path: Path, *, fix: bool) -> Iterator[Check]:
    """Check token, key and own machines of a cluster's YAML. `fix`: make the token and the key.

    Raises:
        UserError: the file cannot be read.
    """
    documents = read_documents(path)
    if any(document.get("provider") or document.get("kind") in KUBERAY for document in documents):
        yield _check_token(path, fix=fix)
    for document in documents:
        auth = document.get("auth") or {}
        if name := auth.get("ssh_private_key"):
            key = Path(name).expanduser()
            yield _check_key(key, path, fix=fix)
            provider = document.get("provider") or {}
            if provider.get("type") == "local" and key.exists():
                yield from _check_machines(provider, str(auth.get("ssh_user", "")), key)


def _check_token(path: Path, *, fix: bool) -> Check:
    token = Path.home() / ".ray" / "auth_token"
    fault = _find_fault(token)
    if fault and fix:
        make_token()
        if _find_fault(token):
            return failed(
                TOKEN, f"{token} was not made", "unset RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH and RAY_AUTH_MODE, and look "
                f"whether {token.parent} can be written",
            )  # fmt: skip
        return passed(TOKEN, f"{token}: made, for its owner alone")
    return _offer(TOKEN, token, fault, path) if fault else passed(TOKEN, f"{token}, for its owner alone")


def _check_key(key: Path, path: Path, *, fix: bool) -> Check:
    fault = _find_fault(key)
    if not fault:
        return passed(KEY, f"{key}, for its owner alone")
    if not fix:
        return _offer(KEY, key, fault, path)
    if fault == "readable by others":
        key.chmod(0o600)
        return passed(KEY, f"{key}: now for its owner alone")
    key.unlink(missing_ok=True)  # it is empty
    key.parent.mkdir(mode=0o700, exist_ok=True)
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "worldmodel", "-f", str(key)]
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or error
        return failed(
            KEY, f"{key} was not made: ssh-keygen: {said}", "install OpenSSH's client, or make the key yourself"
        )
    return passed(KEY, f"{key}: made for this cluster")


def _find_fault(path: Path) -> str:
    """The fault of a secret file; empty: none."""
    if not path.exists():
        return "missing"
    if not path.read_text(errors="replace").strip():
        return "empty"
    return "readable by others" if path.stat().st_mode & 0o077 else ""


def _offer(name: str, file: Path, fault: str, path: Path) -> Check:
    return failed(name, f"{file} is {fault}", f"`worldmodel doctor --cluster {path} --fix` makes it")


def _check_machines(provider: Mapping[str, Any], user: str, key: Path) -> Iterator[Check]:
    addresses = [provider.get("head_ip"), *(provider.get("worker_ips") or [])]
    asked = [str(address) for address in addresses if address and not str(address).startswith(PLACEHOLDER)]
    if user.startswith(PLACEHOLDER):
        return
    with ThreadPoolExecutor(16) as pool:
        yield from pool.map(lambda address: _check_machine(f"{user}@{address}", key), asked)


def _check_machine(place: str, key: Path) -> Check:
    try:
        ended = subprocess.run(
            [*SSH, "-i", str(key), place, "true"], capture_output=True, text=True, check=False, timeout=3 * SECONDS
        )
        status, said = ended.returncode, ended.stderr.strip().splitlines()
    except (OSError, subprocess.TimeoutExpired) as error:
        status, said = 255, [str(error)]
    if status == 0:
        return passed(MACHINE, f"{place} accepts the key")
    reason = said[-1] if said else f"ssh ended with status {status}"
    if "Permission denied" in reason:
        return failed(MACHINE, f"{place} does not accept the key: {reason}", f"ssh-copy-id -i {key}.pub {place}")
    return failed(MACHINE, f"{place}: {reason}", "check the address, and that SSH listens there at port 22")
