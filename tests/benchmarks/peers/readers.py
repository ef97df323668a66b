"""Readers of the same frames with other people's libraries, each as its documentation says is fastest on one machine.

A reader is made with the folder of `typed.py`'s files and the samples; it writes its own format once, and gives batches
for ever. None uses worker processes: what counts are CPU-seconds, and workers add to them.
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tests.benchmarks.peers.typed import Samples, cut_rows, map_matrices

Batches = Iterator[Any]
STORED = 4096
"""Samples that are written where a format stores samples; they are read again and again."""
CONTEXT = 10
FLOATS, INTS = 58, 15
"""Width of the users' `floats` and `ints` (two players' numbers; categories and the stage)."""


def read_memmap(folder: Path, samples: Samples) -> Batches:
    """numpy: a memory-mapped matrix per storage type, gathered through overlapping views; cut samples mended."""
    matrices = map_matrices(folder)
    views = {
        name: np.lib.stride_tricks.sliding_window_view(matrix, samples.frames, axis=0)
        for name, matrix in matrices.items()
    }
    while True:
        for starts, last in samples.iterate():
            cut = np.flatnonzero(starts + samples.frames - 1 > last).tolist()
            batch = {}
            for name, matrix in matrices.items():
                found = views[name].transpose(0, 2, 1)[np.minimum(starts, len(views[name]) - 1)]
                for place in cut:
                    found[place] = cut_rows(matrix, int(starts[place]), int(last[place]), samples.frames)
                batch[name] = torch.from_numpy(found)
            yield batch


def read_memmap_slices(folder: Path, samples: Samples) -> Batches:
    """numpy: a slice per sample of each memory-mapped matrix, copied into the batch."""
    matrices = map_matrices(folder)
    while True:
        for starts, last in samples.iterate():
            batch = {}
            for name, matrix in matrices.items():
                found = np.empty((len(starts), samples.frames, matrix.shape[1]), matrix.dtype)
                for place, (start, end) in enumerate(zip(starts.tolist(), last.tolist(), strict=True)):
                    found[place] = cut_rows(matrix, start, end, samples.frames)
                batch[name] = torch.from_numpy(found)
            yield batch


def read_h5py(folder: Path, samples: Samples) -> Batches:
    """h5py: contiguous data sets (no chunks, no filters), `read_direct` of a slice into the batch."""
    import h5py

    with h5py.File(folder / "frames.h5", "w") as file:
        for name, matrix in map_matrices(folder).items():
            file.create_dataset(name, data=matrix)
    sets = dict(h5py.File(folder / "frames.h5", "r").items())
    while True:
        for starts, last in samples.iterate():
            batch = {}
            for name, rows in sets.items():
                found = np.empty((len(starts), samples.frames, rows.shape[1]), rows.dtype)
                for place, (start, end) in enumerate(zip(starts.tolist(), last.tolist(), strict=True)):
                    stop = min(start + samples.frames, end + 1)
                    rows.read_direct(found, np.s_[start:stop], np.s_[place, : stop - start])
                    found[place, stop - start :] = found[place, stop - start - 1]
                batch[name] = torch.from_numpy(found)
            yield batch


def read_webdataset(folder: Path, samples: Samples) -> Batches:
    """webdataset: uncompressed tar shards on the local disk, a member of bytes per sample, shuffle buffer of 1,000."""
    import webdataset

    rows = _join(folder)
    path = folder / "samples-000000.tar"
    with tarfile.open(path, "w") as tar:
        for number, sample in enumerate(_iterate_stored(rows, samples)):
            info = tarfile.TarInfo(f"{number:07d}.rows")
            info.size = len(sample)
            tar.addfile(info, io.BytesIO(sample))
    size, width = samples.starts.shape[1], rows.shape[1]
    stream = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).shuffle(1000).to_tuple("rows")
    stream = stream.batched(size, collation_fn=lambda found: b"".join(row for (row,) in found), partial=False)
    while True:
        for joined in stream:
            batch = np.frombuffer(bytearray(joined), dtype=np.uint8)
            yield torch.from_numpy(batch).view(size, samples.frames, width)


def read_streaming(folder: Path, samples: Samples) -> Batches:
    """mosaicml-streaming: local uncompressed MDS shards of raw bytes, shuffled, read by its own data loader."""
    _stand_in_for_torchvision()
    from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

    rows = _join(folder)
    with MDSWriter(out=str(folder / "mds"), columns={"rows": "bytes"}) as out:
        for sample in _iterate_stored(rows, samples):
            out.write({"rows": sample})
    size, width = samples.starts.shape[1], rows.shape[1]
    dataset = StreamingDataset(local=str(folder / "mds"), batch_size=size, shuffle=True)

    def join(found: list[dict[str, bytes]]) -> torch.Tensor:
        joined = bytearray(b"".join(sample["rows"] for sample in found))
        return torch.frombuffer(joined, dtype=torch.uint8).view(size, samples.frames, width)

    loader = StreamingDataLoader(dataset, batch_size=size, collate_fn=join, drop_last=True)
    while True:
        yield from loader


def read_pt(folder: Path, samples: Samples) -> Batches:
    """torch.load of the users' layout, a Dataset with one `__getitem__` per sample, DataLoader's default collate."""
    _write_pt(folder)
    data = torch.load(folder / "encoded.pt", weights_only=True)

    class Samplewise(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __init__(self) -> None:
            self.floats, self.ints = data["floats"], data["ints"]

        def __len__(self) -> int:
            return len(self.floats)

        def __getitem__(self, start: int) -> dict[str, torch.Tensor]:
            stop = start + samples.frames - 1
            return {
                "float_ctx": self.floats[start:stop],
                "int_ctx": self.ints[start:stop],
                "float_tgt": self.floats[stop],
                "int_tgt": self.ints[stop],
            }

    end = len(data["floats"]) - samples.frames
    batches = [np.minimum(starts, end).tolist() for starts, _ in samples.iterate()]
    loader: Any = torch.utils.data.DataLoader(Samplewise(), batch_sampler=batches, num_workers=0)
    while True:
        yield from loader


READERS: dict[str, Callable[[Path, Samples], Batches]] = {
    "numpy memmap, strided": read_memmap,
    "numpy memmap, slices": read_memmap_slices,
    "h5py": read_h5py,
    "webdataset": read_webdataset,
    "mosaicml-streaming": read_streaming,
    "torch.load + DataLoader": read_pt,
}


def _stand_in_for_torchvision() -> None:
    """Its classes of image data sets are based on torchvision, whose builds for a GPU fail beside a torch without."""
    import_module("transformers.feature_extraction_utils")  # it looks for the real one
    datasets, functional = ModuleType("torchvision.datasets"), ModuleType("torchvision.transforms.functional")
    datasets.VisionDataset, functional.to_tensor = type("VisionDataset", (), {}), None  # type: ignore[attr-defined]
    for module in (datasets, functional, ModuleType("torchvision"), ModuleType("torchvision.transforms")):
        sys.modules[module.__name__] = module


def _join(folder: Path) -> np.ndarray:
    """All storages of a frame side by side (rows, bytes)."""
    parts = [np.ascontiguousarray(matrix).view(np.uint8) for matrix in map_matrices(folder).values()]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _iterate_stored(rows: np.ndarray, samples: Samples) -> Iterator[bytes]:
    starts, last = samples.starts.reshape(-1)[:STORED], samples.last.reshape(-1)[:STORED]
    for start, end in zip(starts.tolist(), last.tolist(), strict=True):
        yield np.ascontiguousarray(cut_rows(rows, start, end, samples.frames)).tobytes()


def _write_pt(folder: Path) -> None:
    """Every value as the users keep it: float32 and int64."""
    matrices = map_matrices(folder)
    values = np.concatenate([matrices["float32"], matrices["uint8"]], axis=1).astype(np.float32)
    floats = torch.zeros(len(values), FLOATS)
    floats[:, : min(FLOATS, values.shape[1])] = torch.from_numpy(values[:, :FLOATS])
    classes = np.concatenate([matrices["uint16"], matrices["bit"]], axis=1).astype(np.int64)[:, :INTS]
    ints = torch.from_numpy(classes)
    lengths = torch.tensor([len(floats)])
    torch.save(
        {"floats": floats, "ints": ints, "game_offsets": torch.zeros(2, dtype=torch.int64), "game_lengths": lengths,
         "num_games": 1}, folder / "encoded.pt",
    )  # fmt: skip
