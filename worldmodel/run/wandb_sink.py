"""W&B beside the training: a thread and a bounded queue, so that nothing slow or broken there can hold up a run."""

from __future__ import annotations

import netrc
import os
import shlex
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from worldmodel.experiment.config import TrackingConfig
from worldmodel.redaction import hide_secrets
from worldmodel.run.wandb_file import HEADER_BYTES, count_rows
from worldmodel.storage import Location

ADDRESS = "WANDB_BASE_URL"
"""Environment variable: where W&B's server is."""
START_SECONDS = 20.0
"""Time after which a W&B that has not started is reported."""
QUEUE_ROWS = 2000
"""Rows that wait for a slow W&B; past these the newest waiting row takes in what follows."""

RETRY_SECONDS = 600.0
"""Time in which this process tries no W&B that it could not reach: a grid must not wait for it in every trial."""
SETTLE_SECONDS = 5.0
"""Longest wait for the last rows of an offline file."""
LEAST_ROOM = 4 << 20
"""Bytes that W&B's folder must have free: without room its helper processes fill the terminal with their errors."""


class LastFailure:
    """Why W&B could not be reached lately by this process."""

    def __init__(self) -> None:
        self._reason, self._until = "", 0.0

    def remember(self, reason: str) -> None:
        """Keep a reason for a while."""
        self._reason, self._until = reason, time.monotonic() + RETRY_SECONDS

    def recall(self) -> str:
        """The reason; empty: it is worth a try."""
        return self._reason if time.monotonic() < self._until else ""


_last_failure = LastFailure()


class WandbSink:
    """One W&B run, fed from a thread. Whatever fails is told to `note`, and the metrics stay in `metrics.jsonl`."""

    def __init__(
        self,
        location: Location,
        tracking: TrackingConfig,
        config: Mapping[str, Any],
        note: Callable[[str], None],
        wandb_id: str,
    ) -> None:
        self._id = wandb_id
        self._location, self._tracking, self._config, self._note = location, tracking, config, note
        self._rows: deque[dict[str, float | int]] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._started = threading.Event()
        self._is_closing = False
        self._is_late = False
        self._fed = 0
        self._since = time.monotonic()
        self.address: str | None = None
        """Address of the run's page, or the command that uploads it; None until it has started."""
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, row: Mapping[str, float | int]) -> None:
        """Queues one row of metrics; never waits."""
        with self._lock:
            if len(self._rows) < QUEUE_ROWS:
                self._rows.append(dict(row))
            else:
                self._rows[-1].update(row)
        self._wake.set()
        if not self._started.is_set() and not self._is_late and time.monotonic() - self._since > START_SECONDS:
            self._is_late = True
            self._note(f"W&B has not started in {START_SECONDS:.0f} s; metrics.jsonl has everything")

    def close(self, timeout: float = 30.0) -> None:
        """Lets W&B finish, for at most `timeout` seconds."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._note(f"W&B did not finish within {timeout:.0f} s; metrics.jsonl has everything")

    def _work(self) -> None:
        # The edge between the run and a service that may fail in any way.
        try:
            run = self._start()
            self._started.set()
            self._feed(run)
            run.finish()
            if run.settings.mode == "offline":
                self._keep_offline_file(Path(run.settings.sync_dir))
        except Exception as error:  # noqa: BLE001
            self._started.set()
            self._note(f"W&B failed ({_shorten(error)}); metrics.jsonl has everything")

    def _start(self) -> Any:
        if text := drop_credentials():
            self._note(text)
        mode, reason = choose_mode(self._tracking.wandb)
        run = None
        if mode == "online" and not (reason := _last_failure.recall()):
            try:
                run = self._open("online")
                self.address = run.url
            except Exception as error:  # noqa: BLE001
                reason = _shorten(error)
                _last_failure.remember(reason)
                _forget_failed_start()
        if run is None:
            run = self._open("offline")
            self.address = describe_upload(self._location)
            self._note(f"W&B is offline ({reason}); to upload this run later: {self.address}")
        run.define_metric("*", step_metric="step")
        return run

    def _open(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        folder = self._location.local_path() or Path(tempfile.mkdtemp(prefix="worldmodel-wandb-"))
        _check_room(folder)
        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, init_timeout=START_SECONDS,
            reinit="create_new",
        )  # fmt: skip
        return wandb.init(
            mode=mode, dir=str(folder), id=self._id, name=self._location.name,
            project=self._tracking.project, entity=self._tracking.entity, group=self._tracking.group,
            tags=list(self._tracking.tags), config=dict(self._config), settings=settings,
            resume="allow" if mode == "online" else None,
        )  # fmt: skip

    def _feed(self, run: Any) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            is_last = self._is_closing
            while row := self._take():
                run.log(row)
                self._fed += 1
            if is_last:
                return

    def _take(self) -> dict[str, float | int] | None:
        with self._lock:
            return self._rows.popleft() if self._rows else None

    def _keep_offline_file(self, folder: Path) -> None:
        """A run in an object store keeps its offline file there: the machine's disk may vanish. OSError: not whole."""
        for path in folder.glob("*.wandb"):
            _wait_for_end(path)
            if (found := count_rows(path)) < self._fed:
                raise OSError(f"{path} holds {found} of {self._fed} rows: its disk is full, or was")
            if self._location.local_path() is None:
                (self._location / "wandb" / folder.name / path.name).upload(path)


def choose_mode(setting: str) -> tuple[str, str]:
    """W&B's mode (`online`, `offline`, `disabled`) and the reason, from the experiment and the environment."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    if setting == "disabled" or asked == "disabled":
        return "disabled", "as asked"
    if setting == "offline" or asked in ("offline", "dryrun"):
        return "offline", "as asked"
    return ("online", "") if has_key() else ("offline", "no key: set WANDB_API_KEY or run `wandb login`")


def drop_credentials() -> str:
    """Take user and password out of W&B's address in this process's environment: W&B shows it, and writes it into its
    logs. Returns what to note; empty: there were none."""
    parts = urlsplit(os.environ.get(ADDRESS, ""))
    if "@" not in parts.netloc:
        return ""
    os.environ[ADDRESS] = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return f"{ADDRESS}: its user and password are left out, for W&B writes the address into its logs"


def has_key() -> bool:
    """Whether W&B finds an API key: in `WANDB_API_KEY` or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get(ADDRESS, "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC") or str(Path.home() / ".netrc")).authenticators(host) is not None
    except (OSError, RuntimeError, netrc.NetrcParseError):
        return False


def describe_upload(location: Location) -> str:
    """The command that uploads all that a run wrote while offline: the same for every attempt, so it is told once."""
    folder = location.local_path()
    if folder is None:
        return f"copy {location / 'wandb'} to a disk, then `wandb sync` its folder's folders"
    return f"wandb sync {shlex.quote(str(folder))}/wandb/offline-run-*"


def _check_room(folder: Path) -> None:
    """OSError where W&B has no room for its files, be its folder a place of its own or new."""
    place = next(path for path in (folder / "wandb", folder, *folder.parents) if path.exists())
    if (free := shutil.disk_usage(place).free) < LEAST_ROOM:
        raise OSError(f"{place} has {free >> 10} KiB free, W&B needs {LEAST_ROOM >> 20} MiB")


def _wait_for_end(path: Path) -> None:
    """Waits until a file no longer grows: W&B's helper process writes its last rows a little after the run's end."""
    before, deadline = -1, time.monotonic() + SETTLE_SECONDS
    while (size := path.stat().st_size) != before or size <= HEADER_BYTES:
        if time.monotonic() > deadline:
            return
        before = size
        time.sleep(0.1)


def _forget_failed_start() -> None:
    """Ends W&B's helper process, which holds on to the id of a run that could not start."""
    import wandb

    wandb.teardown()


def _shorten(error: Exception) -> str:
    return hide_secrets(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
