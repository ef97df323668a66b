"""Slots that blocks are loaded into ahead of their use, in threads: a bounded part of a data set at hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import chain

Load = Callable[[int, int], None]
"""Puts a block (by number) into a slot (by number)."""


class BlockSlots:
    """So many blocks at hand. What is needed now stays, what is expected comes next, the longest unused goes first.

    Threads exist only while there is something to load. What goes wrong in one is raised where its block is needed.
    """

    def __init__(self, slots: int, load: Load, loaders: int = 1, check: Callable[[], None] | None = None) -> None:
        """`loaders`: blocks that are loaded at a time. `check`: runs in a thread once the first blocks are loaded."""
        self.count = slots
        self._load, self._loaders, self._check = load, loaders, check
        self._free = list(range(slots))
        self._slot_of: dict[int, int] = {}
        """Block at hand to its slot, the longest unused first."""
        self._coming: set[int] = set()
        self._now: tuple[int, ...] = ()
        self._held: list[tuple[int, ...]] = []
        self._next: tuple[int, ...] = ()
        self._running = 0
        self._error: Exception | None = None
        self._change = threading.Condition()

    def expect(self, blocks: Sequence[int]) -> None:
        """Say which blocks are needed soon, in order: they are loaded as far as slots are free of what is needed."""
        with self._change:
            self._next = tuple(blocks)
            self._wake()

    def require(self, blocks: Sequence[int]) -> None:
        """Return once these blocks (at most `count`) are at hand; they stay until the next call.

        Raises:
            Exception: what kept one of them from being loaded.
        """
        with self._change:
            self._now = tuple(blocks)
            self._wait_for(blocks)

    def hold(self, blocks: Sequence[int]) -> None:
        """`require`, but they stay until `release`, which may be what makes room for them. Raises as it does."""
        with self._change:
            self._held.append(tuple(blocks))
            self._wait_for(blocks)

    def release(self) -> None:
        """The blocks that were held first may go; nothing where none are held."""
        with self._change:
            del self._held[:1]
            self._wake()

    def _wait_for(self, blocks: Sequence[int]) -> None:
        assert len(blocks) <= self.count
        self._wake()
        self._change.wait_for(lambda: self._error is not None or self._slot_of.keys() >= set(blocks))
        if self._error is not None:
            raise self._error
        for block in blocks:
            self._slot_of[block] = self._slot_of.pop(block)
        if self._check is not None:
            threading.Thread(target=self._do_check, args=(self._check,), name="block check", daemon=True).start()
            self._check = None

    def _do_check(self, check: Callable[[], None]) -> None:
        try:
            check()
        except Exception as error:  # noqa: BLE001  (the thread's edge: raised where the next block is required)
            with self._change:
                self._error = error
                self._change.notify_all()

    def _wake(self) -> None:
        while self._running < self._loaders and (job := self._pick()):
            self._running += 1
            threading.Thread(target=self._load_all, args=job, name="block loader", daemon=True).start()

    def _pick(self) -> tuple[int, int] | None:
        """The next block to load and the slot for it, which from now on are this caller's."""
        wanted = list(dict.fromkeys((*chain(*self._held), *self._now, *self._next)))[: self.count]
        for block in wanted:
            if block in self._slot_of or block in self._coming:
                continue
            slot = self._free.pop() if self._free else self._empty(set(wanted))
            if slot is None:
                return None
            self._coming.add(block)
            return block, slot
        return None

    def _empty(self, wanted: set[int]) -> int | None:
        for block in self._slot_of:
            if block not in wanted:
                return self._slot_of.pop(block)
        return None

    def _load_all(self, block: int, slot: int) -> None:
        job: tuple[int, int] | None = (block, slot)
        while job:
            block, slot = job
            try:
                self._load(block, slot)
                error = None
            except Exception as found:  # noqa: BLE001  (the thread's edge: raised where the block is required)
                error = found
            with self._change:
                self._coming.discard(block)
                if error is None:
                    self._slot_of[block] = slot
                else:
                    self._free.append(slot)
                    self._error = error
                job = self._pick() if self._error is None else None
                self._running -= job is None
                self._change.notify_all()
