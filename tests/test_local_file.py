"""One process at a time: a file that is held is waited for, and a process that ended holds nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from worldmodel.local_file import holding

HOLDER = """
import sys, time
from pathlib import Path
from worldmodel.local_file import holding
with holding(Path(sys.argv[1])) as file:
    file.write(b"begun")
    file.flush()
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_held_file_is_waited_for_and_a_killed_holder_frees_it(tmp_path: Path) -> None:
    path, found = tmp_path / "file", list[bytes]()

    def go_on() -> None:
        with holding(path):
            found.append(path.read_bytes())

    waiter = threading.Thread(target=go_on)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        waiter.start()
        waiter.join(0.2)
        assert not found
        holder.kill()
    waiter.join(10)
    assert found == [b"begun"]


def test_who_waited_for_a_file_that_was_renamed_gets_a_new_one(tmp_path: Path) -> None:
    path, found = tmp_path / "file", list[bytes]()

    def append() -> None:
        with holding(path) as file:
            file.write(b"second")
        found.append(path.read_bytes())

    waiter = threading.Thread(target=append)
    with holding(path) as file:
        waiter.start()
        file.write(b"first")
        file.flush()
        waiter.join(0.1)
        path.rename(tmp_path / "whole")
    waiter.join(10)
    assert (found, (tmp_path / "whole").read_bytes()) == ([b"second"], b"first")
