"""One encoding with its CPU time and memory, of the driver and all that it started: `ray_run GAMES OUT CPUS`."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time

import psutil

from worldmodel.blocks.encode import EncodeOptions, encode
from worldmodel.ray_session import join_ray

EVERY_SECONDS = 0.2


class Watch:
    """Looks at this process and its descendants until it is told to stop."""

    def __init__(self) -> None:
        self.worker_bytes = self.driver_bytes = 0
        self.cpu_seconds = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        own = psutil.Process()
        while not self._is_over.wait(EVERY_SECONDS):
            self.driver_bytes = max(self.driver_bytes, own.memory_full_info().uss)
            for process in own.children(recursive=True):
                try:
                    if process.cmdline()[0].startswith("ray::"):
                        self.worker_bytes = max(self.worker_bytes, process.memory_full_info().uss)
                except (psutil.Error, IndexError):
                    continue
            self.cpu_seconds = time.thread_time()

    def stop(self) -> None:
        """End the thread."""
        self._is_over.set()
        self._thread.join()


def read_cpu_seconds() -> float:
    """Of this process and its living descendants."""
    total = 0.0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def main() -> None:
    """Encode, and say what it took."""
    games, out, cpus = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if cpus:
        join_ray(cpus)
        import ray

        ray.data.range(cpus, override_num_blocks=cpus).map(lambda row: row).take_all()  # workers exist from here on
    shutil.rmtree(out, ignore_errors=True)
    watch, began, cpu = Watch(), time.perf_counter(), read_cpu_seconds()
    summary = encode(games, out, EncodeOptions(cpus=cpus))
    cpu, wall = read_cpu_seconds() - cpu, time.perf_counter() - began
    watch.stop()
    found = {"games": len(summary.index.games), "cpu_seconds": cpu - watch.cpu_seconds, "wall_seconds": wall}
    print(json.dumps({**found, "worker_bytes": watch.worker_bytes, "driver_bytes": watch.driver_bytes}))


if __name__ == "__main__":
    main()
