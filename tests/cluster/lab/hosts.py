"""Hosts on one machine: each has its own network, processes, mounts and name, a real sshd, and a home of its own.

All hang on one link, on which every address is asked for directly, so a host may have any address there is: that of a
private network and a public one. They share the machine's file system but for /root, /home and /tmp, so the Python
environment is there as if a machine image had brought it. `run.sh` gives the tests namespaces of their own first;
when those end, everything here ends with them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster.lab.command import Command
from tests.cluster.lab.machine import LINK, SEARCHED, call
from tests.cluster.lab.waiting import wait_for

ROOT = Path(__file__).parents[3]
OWN_FOLDERS = ("/root", "/home", "/tmp")
"""What a host does not share with the machine."""
START_SECONDS = 20
BIN = Path(__file__).parent / "bin"
"""What a cloud's image has and this machine may lack, in a form that fits a host here."""


@dataclass(kw_only=True)
class Host:
    """A running host."""

    name: str
    addresses: tuple[str, ...]
    """The first is its own; more are further ones, such as a public one."""
    folder: Path
    """Holds its disk: root, home, tmp; stays when the host is stopped."""
    keys: str
    """Public keys, a line each, of those who may log in."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What every shell on it has: what an image and its identity would bring."""
    programs: Path = BIN
    """Folder of programs that come first, in place of what its image would have."""
    has_packages: bool = True
    """Whether its image has this machine's Python environment on the PATH."""
    process: subprocess.Popen[bytes] | None = None
    _count: int = 0

    @property
    def address(self) -> str:
        """Its own address."""
        return self.addresses[0]

    @property
    def home(self) -> Path:
        """Its /root, seen from outside."""
        return self.folder / "root"

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> Host:
        """Switch it on."""
        self._prepare_disk()
        call("ip", "netns", "add", self.name)
        call("ip", "link", "add", f"v{self.name}"[:15], "type", "veth", "peer", "name", "eth0", "netns", self.name)
        call("ip", "link", "set", f"v{self.name}"[:15], "master", LINK, "up")
        self._configure("link", "set", "eth0", "address", _make_hardware_address(self.address))
        for address in self.addresses:
            self._configure("address", "add", f"{address}/32", "dev", "eth0")
        for device in ("lo", "eth0"):
            self._configure("link", "set", device, "up")
        self._configure("route", "add", "default", "dev", "eth0", "src", self.address)
        isolate = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *isolate, "bash", "-c", self._write_boot()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={"PATH": SEARCHED, "HOME": "/root"},
            )  # fmt: skip
        wait_for(self._answers, START_SECONDS, f"sshd of {self.name}", self.read_logs)
        return self

    def stop(self) -> None:
        """Switch it off without a word, as when a machine is taken away."""
        with suppress(subprocess.CalledProcessError):
            call("ip", "link", "delete", f"v{self.name}"[:15])
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait(START_SECONDS)
        with suppress(subprocess.CalledProcessError):
            call("ip", "netns", "delete", self.name)
        self.process = None

    def run(self, command: Sequence[str] | str, seconds: float, **options: object) -> tuple[int, str]:
        """Exit status and output (both streams) of a command on the host; `options` are those of `begin`."""
        begun = self.begin(command, **options)  # type: ignore[arg-type]
        return begun.wait(seconds, self.read_logs), begun.read()

    def begin(
        self,
        command: Sequence[str] | str,
        *,
        folder: str = "/root",
        answer: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> Command:
        """Begin a command at the host's own keyboard, as root, in a folder. `answer` is what is typed, in a terminal:
        some programs ask nobody else."""
        words = ["bash", "-c", command] if isinstance(command, str) else list(command)
        if answer:
            words = ["script", "--quiet", "--return", "--command", shlex.join(words), "/dev/null"]
        self._count += 1
        said, typed = self.folder / f"said/{self._count}", self.folder / f"said/{self._count}.typed"
        said.parent.mkdir(exist_ok=True)
        typed.write_text(answer)
        with said.open("wb") as out, typed.open("rb") as keys:
            process = subprocess.Popen(
                ["nsenter", f"--target={self._find_init()}", "--all", f"--wdns={folder}", *words],
                env={**self._make_environment(), **(environment or {})}, stdin=keys, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        return Command(name=f"{shlex.join(words)} on {self.name}", process=process, said=said)

    def read_logs(self) -> str:
        """The last lines of what its sshd and its Ray said."""
        logs = [self.folder / "sshd.log", *sorted(self.folder.glob("tmp/ray/session_2*/logs/*"))]
        logs += sorted(self.folder.glob("root/.worldmodel/*.log"))
        wanted = ("sshd", "monitor.", "raylet.err", "gcs_server.err", "job-driver", "keeper", "guard", "notice")
        chosen = [path for path in logs if path.name.startswith(wanted) and path.is_file() and path.stat().st_size]
        return "".join(f"--- {self.name}:{path.name}\n{_read_end(path)}\n" for path in chosen)

    def _answers(self) -> bool:
        if not self.is_up:
            pytest.fail(f"{self.name} ended at its start:\n{self.read_logs()}")
        init = self._find_init()
        return bool(init) and "sshd" in Path(f"/proc/{init}/comm").read_text() and self._listens()

    def _listens(self) -> bool:
        return ":0016 " in Path(f"/proc/{self._find_init()}/net/tcp").read_text()  # port 22

    def _find_init(self) -> str:
        assert self.process is not None, f"{self.name} is switched off"
        return Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().strip()

    def _configure(self, *words: str) -> None:
        call("ip", "-n", self.name, *words)

    def _make_environment(self) -> dict[str, str]:
        packages = [str(Path(sys.executable).parent)] if self.has_packages else []
        path = ":".join([str(self.programs), str(BIN), *packages, SEARCHED])
        return {"PATH": path, "HOME": "/root", "USER": "root", "LANG": "C.UTF-8", **self.environment}

    def _list_exports(self) -> dict[str, str]:
        """What every shell has that a person opens."""
        return {name: value for name, value in self._make_environment().items() if name not in ("HOME", "USER")}

    def _prepare_disk(self) -> None:
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)  # as at any machine's start
        for name in ("root/.ssh", "home", "tmp", "etc"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").chmod(0o1777)
        (self.home / ".ssh").chmod(0o700)
        (self.home / ".ssh/authorized_keys").write_text(self.keys)
        kept = self._make_environment()
        lines = [
            f"export {name}={shlex.quote(value)}\n" for name, value in kept.items() if name not in ("HOME", "USER")
        ]
        (self.home / ".bashrc").write_text("".join(lines))
        if not (self.folder / "etc/hostkey").exists():
            call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "etc/hostkey"))
        users = Path("/etc/passwd").read_text().splitlines()
        others = [line for line in users if not line.startswith("ubuntu:")]
        (self.folder / "etc/passwd").write_text("\n".join([*others, "ubuntu:x:0:0::/root:/bin/bash", ""]))
        _link(self.folder / "home/ubuntu", "/root")

    def _write_boot(self) -> str:
        """What runs first on the host and becomes its sshd."""
        disk = shlex.quote(str(self.folder))
        lines = ["set -e", "mount --make-rprivate /", f"hostname {self.name}"]
        for path in _find_kept_folders():
            lines += [f"mkdir -p {disk}{path}", f"mount --bind {path} {disk}{path}"]
        lines += [f"mount --bind {disk}/etc/passwd /etc/passwd"]
        lines += ["mount -t tmpfs -o size=50%,mode=1777 tmpfs /dev/shm"]
        settings = " ".join(f"{name}={_quote(value)}" for name, value in self._list_exports().items())
        options = {
            "PidFile": "none", "PermitRootLogin": "prohibit-password", "UsePAM": "no", "MaxStartups": "100",
            "MaxSessions": "100", "PasswordAuthentication": "no", "StrictModes": "no", "PrintMotd": "no",
            "SetEnv": settings,
        }  # fmt: skip
        (self.folder / "etc/sshd").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        lines += [f"cp {disk}/etc/sshd {disk}/etc/hostkey /dev/shm/"]
        lines += [f"mount --rbind {disk}{path} {path}" for path in OWN_FOLDERS]
        lines += ["cd /", "exec /usr/sbin/sshd -D -e -f /dev/shm/sshd -h /dev/shm/hostkey"]
        return "\n".join(lines)


def _find_kept_folders() -> list[Path]:
    """What must stay visible of the folders that a host has of its own: the environment and the checkout."""
    wanted = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), ROOT.resolve()}
    hidden = [path for path in sorted(wanted) if str(path).startswith(tuple(f"{own}/" for own in OWN_FOLDERS))]
    return [path for path in hidden if not any(other in path.parents for other in hidden)]


def _make_hardware_address(address: str) -> str:
    """That of a host's network card: the same whenever it is switched on, for its neighbours remember it."""
    return ":".join(["02", "00", *(f"{int(part):02x}" for part in address.split("."))])


def _quote(value: str) -> str:
    """A value in sshd's own quotes."""
    return '"' + value.replace('"', '\\"') + '"'


def _link(path: Path, target: str) -> None:
    if not path.is_symlink():
        path.symlink_to(target)


def _read_end(path: Path, size: int = 1500) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors="replace")
