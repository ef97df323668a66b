"""The fuzzer's own process, which ends at the first crash: `python -m tests.fuzz.fuzz_one TARGET CORPUS [options]`."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris
import torch._weights_only_unpickler as unpickling  # before the rest is: all of torch would take minutes

with atheris.instrument_imports(include=["worldmodel", "tarfile"]):
    from tests.fuzz.targets import SCRATCH, TARGETS


def main() -> None:
    """Fuzz until libFuzzer's limits, or a crash."""
    name, corpus, *options = sys.argv[1:]
    target, folder = TARGETS[name], Path(corpus)
    unpickling.Unpickler.load = atheris.instrument_func(unpickling.Unpickler.load)
    for number, content in enumerate(target.seeds()):
        (folder / f"seed-{number}").write_bytes(content)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        changed = target.mutate(data, random.Random(seed), atheris.Mutate)
        return changed if len(changed) <= most else data

    assert SCRATCH.is_dir()
    atheris.Setup([sys.argv[0], *options, str(folder)], target.read, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
