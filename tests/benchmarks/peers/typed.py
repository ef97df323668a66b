"""The frames that all peers read: one matrix per storage type, plain files of numpy, and which samples to take.

Imported in the peers' environment too: numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Batches of samples of one shape."""

    starts: np.ndarray
    """(steps, B) first rows."""
    last: np.ndarray
    """(steps, B) last row of each sample's game."""
    frames: int
    """Rows of a sample."""
    targets: int
    """Target frames of a batch (a last sequence's missing ones count as there, for everybody alike)."""

    def iterate(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(starts, last) of each batch."""
        return list(zip(self.starts, self.last, strict=True))

    def save(self, folder: Path) -> None:
        """Keep them for another process."""
        np.savez(folder / "samples.npz", **vars(self))

    @classmethod
    def load(cls, folder: Path) -> Samples:
        """What `save` kept."""
        found = np.load(folder / "samples.npz")
        return cls(
            starts=found["starts"], last=found["last"], frames=int(found["frames"]), targets=int(found["targets"])
        )


def save_matrices(folder: Path, matrices: dict[str, np.ndarray]) -> None:
    """A file per storage type."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, matrix in matrices.items():
        np.save(folder / f"{name}.npy", matrix)


def map_matrices(folder: Path) -> dict[str, np.ndarray]:
    """Storage type to its memory-mapped matrix (rows, width)."""
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}


def cut_rows(matrix: np.ndarray, start: int, last: int, frames: int) -> np.ndarray:
    """Rows of one sample; beyond the last one it is repeated."""
    rows = matrix[start : min(start + frames, last + 1)]
    return rows if len(rows) == frames else np.concatenate([rows, np.repeat(rows[-1:], frames - len(rows), axis=0)])
