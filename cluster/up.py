"""Starts a cluster: what `ray up` does, with a check before it, one message after it where it fails, and the tunnel.

    python cluster/up.py cluster/a100.yaml       then: ray job submit -- python tune/round1.py

Before: nothing left to set, the files that go along, one token for laptop, head and workers, credentials. After: a
machine that a failed start left is ended, unless it was there before; else the dashboard of the head, where jobs are
submitted, answers at http://127.0.0.1:8265 through SSH.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

if __package__ in (None, ""):  # run as a script: its own package lies one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.launch_errors import explain
from worldmodel.cli.arguments import parse_arguments
from worldmodel.cli.verb import metavar
from worldmodel.errors import UserError
from worldmodel.machine.launcher import ASKS, TOKEN, check_files, check_settings, name_cloud
from worldmodel.ray_session import make_token

TUNNELS = Path("~/.worldmodel")
"""Where the processes that hold tunnels are noted."""
LINES = 400
"""Last lines of the launcher's output that are searched for a reason."""
PATIENCE = 60.0
"""Seconds that the tunnel may take, and an interrupted launcher to end."""
INTERRUPTED = 130
"""Exit status after Ctrl-C."""


@dataclass(frozen=True, kw_only=True)
class Up:
    """Start a cluster and the tunnel to it."""

    file: Annotated[tyro.conf.Positional[Path], metavar("FILE")]
    """The cluster's YAML."""
    tunnel_port: Annotated[int, metavar("PORT")] = 8265
    """Port of this laptop at which the head's dashboard answers; 0: no tunnel."""
    keep: bool = False
    """Leave the machines of a failed start, to look at them."""


def main(arguments: list[str] | None = None) -> int:
    """Start it; the exit status is 0 where it runs, 2 where something is to be set, 130 after Ctrl-C, the launcher's
    where that fails."""
    options = None
    try:
        options = parse_arguments(Up, arguments, description=__doc__)
        return run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        file = options.file if options else "FILE"
        say(f"interrupted: machines may be there, and cost money; to end them: ray down {file}")
        return INTERRUPTED


def run(options: Up) -> int:
    """Check, start, connect. UserError says what is to be set."""
    config = check_file(options.file)
    make_token()
    check_files([TOKEN])
    check_credentials(config)
    was_there = bool(list_machines(config))
    status, output = launch(options.file)
    if status:
        reason = "interrupted" if status == INTERRUPTED else explain(output)
        say(f"error: {options.file}: {reason or 'the start failed; the reason stands above'}")
        _clean_up(options, was_there=was_there)
        return status
    if options.tunnel_port:
        open_tunnel(options.file, config["cluster_name"], options.tunnel_port)
        say(f"the dashboard: http://127.0.0.1:{options.tunnel_port} ; it {ASKS}")
    say(
        f"now: export RAY_ADDRESS=http://127.0.0.1:{options.tunnel_port or 8265} RAY_AUTH_MODE=token\n"
        f"     ray job submit -- python tune/round1.py\nend: ray down {options.file}"
    )
    return 0


def check_file(path: Path) -> dict[str, Any]:
    """The YAML's content. UserError names all that is unset, wrong or missing."""
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict) or "provider" not in config:
        raise UserError(f"{path} is no file of `ray up`: it has no provider")
    check_settings(config)
    check_files([name for name in (config.get("file_mounts") or {}).values() if name != TOKEN])
    key = (config.get("auth") or {}).get("ssh_private_key")
    if key and not Path(key).expanduser().exists():
        raise UserError(f"no SSH key at {key}; create it once: worldmodel doctor --cluster {path} --fix")
    return config


def check_credentials(config: Mapping[str, Any]) -> None:
    """UserError where the cloud does not let this laptop in, before anything is asked for."""
    kind = name_cloud(config["provider"])
    with refused_by(kind):
        if kind == "aws":
            import boto3

            boto3.Session().client("sts", region_name=config["provider"]["region"]).get_caller_identity()
        elif kind == "gcp":
            import google.auth

            google.auth.default()
        elif kind == "azure":
            subprocess.run(["az", "account", "show"], check=True, capture_output=True, text=True)


@contextmanager
def refused_by(cloud: str) -> Iterator[None]:
    """UserError in place of whatever a cloud's client raises."""
    try:
        yield
    except subprocess.CalledProcessError as error:
        raise UserError(f"Azure: {explain(error.stderr) or error.stderr.strip()}") from error
    except FileNotFoundError as error:
        raise UserError("Azure: its command line is missing: install `az`, then `az login`") from error
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise UserError(f"{cloud}: {explain(text) or text}") from error


def list_machines(config: Mapping[str, Any]) -> dict[str, str]:
    """Machines of this cluster that are there, and so cost money; own machines cost none."""
    from cluster.machines import find_machines

    with refused_by(name_cloud(config["provider"])):
        return find_machines(config, "true").list_kinds()


def launch(path: Path) -> tuple[int, str]:
    """Run `ray up`; its exit status (130 after Ctrl-C), and the end of what it said."""
    command = ["ray", "up", "--yes", "--no-config-cache", str(path)]
    process, lines = None, deque[str](maxlen=LINES)
    try:
        with held_interrupt():
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line)
        return process.wait(), "".join(lines)
    except KeyboardInterrupt:
        if process:
            _end(process)
        return INTERRUPTED, "".join(lines)


@contextmanager
def held_interrupt() -> Iterator[None]:
    """Ctrl-C waits until the block has ended."""
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


def _end(process: subprocess.Popen[str]) -> None:
    """A launcher that still started machines could not be cleaned up after. Ctrl-C has reached it as well, mostly."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _clean_up(options: Up, *, was_there: bool) -> None:
    if was_there or options.keep:
        say(f"what is there stays; to end it: ray down {options.file}")
        return
    say(f"ending what has been started: ray down {options.file}")
    ended = subprocess.run(["ray", "down", "--yes", str(options.file)], check=False, capture_output=True, text=True)
    if ended.returncode:
        say(f"error: machines may be left, and cost money: run ray down {options.file}\n{ended.stdout}{ended.stderr}")
    else:
        say(f"nothing is left of it (ray down {options.file})")


def open_tunnel(path: Path, name: str, port: int) -> None:
    """Connect a port of this laptop with the head's dashboard, in place of an older tunnel. UserError: no answer."""
    note = TUNNELS.expanduser() / f"tunnel-{name}-{port}.pid"
    note.parent.mkdir(parents=True, exist_ok=True)
    _end_older(note)
    if not is_free(port):
        raise UserError(f"another program listens at port {port}: end it, or choose another --tunnel-port")
    process = subprocess.Popen(
        ["ray", "dashboard", str(path), "--port", str(port)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    note.write_text(str(process.pid))
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        answer = ask_dashboard(port)
        if answer == "open":
            raise UserError("the head takes jobs without a token: run `ray up` again, and see that the token is there")
        if answer == "closed":
            return
        time.sleep(1)
    raise UserError(
        f"the tunnel does not answer at port {port} (is another program there?): ray dashboard {path} --port OTHER"
    )


def _end_older(note: Path) -> None:
    try:
        os.killpg(int(note.read_text()), 15)
    except (OSError, ValueError):
        return
    time.sleep(1)  # until its port is free


def is_free(port: int) -> bool:
    """Whether nobody listens at a port of this laptop."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def ask_dashboard(port: int) -> Literal["closed", "open", ""]:
    """Whether jobs need a token there ("closed") or not ("open"); empty: no answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/jobs/", timeout=5):
            return "open"
    except urllib.error.HTTPError as error:
        return "closed" if error.code in (401, 403) else ""
    except (OSError, urllib.error.URLError):
        return ""


def say(text: str) -> None:
    """Tell people something."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
