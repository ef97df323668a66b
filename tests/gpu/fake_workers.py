"""Two workers on one machine with two fake GPUs, one of which is this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.parallel.distributed as parallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.gpu import project
from tests.gpu.recorder import FAKE, Recorder

Parallel = parallel.DistributedDataParallel


@contextlib.contextmanager
def place(rank: int | None) -> Iterator[Any]:
    """The project's `Workers` of one of two workers; None: of the only one."""
    if rank is None:
        yield project.find_workers(None)
        return
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=2)
    torch.cuda.set_device(rank)  # as Ray does, in the training thread
    try:
        with _without_values():
            yield project.find_workers(rank)
    finally:
        torch.cuda.set_device(0)
        dist.destroy_process_group()


@contextlib.contextmanager
def _without_values() -> Iterator[None]:
    """Skip what DistributedDataParallel does with values; the sum of gradients is an operation like others."""
    begin = Parallel.__init__

    def begin_with_hook(self: Any, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        self.register_comm_hook(None, _sum)

    with (
        mock.patch.object(parallel, "_verify_param_shape_across_processes", lambda *args, **options: None),
        mock.patch.object(dist.Logger, "set_runtime_stats_and_log", lambda self: None),
        mock.patch.object(dist.Reducer, "_rebuild_buckets", lambda self: False),
        mock.patch.object(Parallel, "__init__", begin_with_hook),
    ):
        yield


def _sum(state, bucket):  # type: ignore[no-untyped-def]  # torch checks annotations, and knows no strings
    dist.all_reduce(bucket.buffer())
    future: Any = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def in_thread(recorder: Recorder, make: Callable[[int], Any]) -> Callable[[int], Any]:
    """`make` in a new thread, whose current device is 0 as that of every new thread; the caller waits for it.

    A FakeTensorMode serves one thread at a time.
    """

    def run(step: int) -> Any:
        found: list[Any] = []

        def work() -> None:
            with FAKE, recorder:
                try:
                    found.append(make(step))
                except Exception as error:  # noqa: BLE001  (raised where the result is asked for)
                    found.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    return run
