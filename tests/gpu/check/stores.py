"""Frames on the device: streamed ones are the same, and rows behind 2^31 words are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch
from torch import Tensor

from tests.gpu.check.report import Report, Row, Skipped
from tests.gpu.check.toys import begin, configure, judge, make_blocks, train
from worldmodel.blocks.layout import layout_named
from worldmodel.features.rows import WORD, RowFormat, RowMatrix
from worldmodel.features.shelf import LocalShelf
from worldmodel.training import job
from worldmodel.training.data import open_dataset
from worldmodel.training.feed import Feed, Worker

FAR = 2**31
"""Words that a 32-bit index cannot count."""


def compare_streaming(report: Report) -> str:
    """Batches by step from a store with all frames and from one that streams: equal bit for bit."""
    blocks = make_blocks(report)
    config = configure(report, encoding__projectiles=True)
    dataset = open_dataset(str(blocks), config)
    feeds = [Feed(dataset, config, Worker(device=report.device, resident_bytes=room)) for room in (1 << 40, 0)]
    kinds = [feed.store.is_resident for feed in feeds]
    report.go([{"store": "opened"}], lambda store: judge({}, kinds == [True, False], "one resident, one streaming"))

    def work(step: int) -> Row:
        resident, streamed = (dict(flatten(feed.batches(step))) for feed in feeds)
        wrong = [name for name, value in resident.items() if not torch.equal(value, streamed[name])]
        values = {"tensors": len(resident), "numbers": sum(value.numel() for value in resident.values())}
        return judge(values, len(resident) > 5 and not wrong, f"equal tensors, found others in {wrong[:3]}")

    report.go([{"step": step} for step in (0, 1, 2, 5, 50, 51)], work)
    report.go([{"what": "losses of training"}], lambda what: _compare_losses(report, blocks), reserve=10)
    return feeds[1].store.describe()


def _compare_losses(report: Report, blocks: Path) -> Row:
    """What the trainer makes of both, however it fetches its batches."""
    config = configure(report, training__deterministic=True, training__log_interval=1, training__batch_size=16)
    found: list[list[float]] = []
    for room in (1 << 40, 0):
        with mock.patch.object(job, "measure_room", lambda *_, size=room: size):
            trainer = begin(blocks, config, report.device)
        found.append([])
        train(trainer, 12, lambda interval: found[-1].append(interval.loss))
    return judge({"losses": len(found[0]), "last": found[0][-1]}, found[0] == found[1], "equal losses")


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors in dataclasses, mappings and sequences, with their places."""
    if isinstance(value, Tensor):
        yield name, value
    elif dataclasses.is_dataclass(value):
        yield from flatten({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, name)
    elif isinstance(value, Mapping | list | tuple):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from flatten(part, f"{name}.{key}")


def reach_far_rows(report: Report) -> str:
    """One block written at both ends of a matrix of rows, and gathered from there."""
    blocks = make_blocks(report)
    dataset = open_dataset(str(blocks), configure(report))
    entry = max(dataset.index.blocks, key=lambda block: block.frames)
    form, block = RowFormat(layout_named(entry.layout)), LocalShelf(blocks).open(entry)
    used = max(place.stop for place in form.places.values())  # nothing is written behind the columns
    rows = FAR // (form.width // WORD) + 3 * entry.frames
    free = torch.cuda.mem_get_info()[0] if report.has_gpu else psutil.virtual_memory().available
    if free < 1.2 * rows * form.width:
        raise Skipped(f"needs {1.2 * rows * form.width / 2**30:.0f} GiB, {free / 2**30:.0f} are free")
    near, far = (RowMatrix(form, count, report.device) for count in (entry.frames, rows))
    places = (0, rows - 2 * entry.frames, rows - entry.frames)  # behind the last frames are no others
    near.put(0, block)
    for place in places:
        far.put(place, block)

    def work(frames: int, at: int) -> Row:
        starts = torch.tensor([0, 3, entry.frames // 2, entry.frames - 2], device=report.device)
        last = torch.full_like(starts, entry.frames - 1)
        found, expected = far.take(at + starts, at + last, frames), near.take(starts, last, frames)
        is_equal = torch.equal(found[..., :used], expected[..., :used])
        return judge({"word": at * form.width // WORD}, is_equal, "the rows that were written")

    report.go([{"frames": frames, "at": at} for frames in (2, 65, 257) for at in places], work)
    return f"{rows * form.width / WORD / 2**31:.3f} x 2^31 words"
