"""The next step's batch is made in a thread while this step is computed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """Makes what steps need, one step ahead of the one that asks; a context, whose thread ends with it.

    What is made is the same as without the thread: it is a function of the step alone.
    """

    def __init__(self, make: Callable[[int], Made], end: int) -> None:
        """`make`: makes what a step needs; `end`: the step before which it ends, which is not made ahead."""
        self._make, self._end = make, end
        self._asked: SimpleQueue[int | None] = SimpleQueue()
        self._made: SimpleQueue[tuple[int, Made | Exception]] = SimpleQueue()
        self._coming: int | None = None

    def take(self, step: int) -> Made:
        """What step `step` needs; the next step's is begun. What went wrong in making it is raised here."""
        if self._coming != step:
            self._drop()
            self._ask(step)
        found = self._made.get()[1]
        self._coming = None
        if isinstance(found, Exception):
            raise found
        if step + 1 < self._end:
            self._ask(step + 1)
        return found

    def _ask(self, step: int) -> None:
        self._asked.put(step)
        self._coming = step

    def _drop(self) -> None:
        if self._coming is not None:
            self._made.get()
            self._coming = None

    def _work(self) -> None:
        while (step := self._asked.get()) is not None:
            try:
                self._made.put((step, self._make(step)))
            except Exception as error:  # noqa: BLE001  (the thread's edge: raised where the step is taken)
                self._made.put((step, error))

    def __enter__(self) -> Ahead[Made]:
        threading.Thread(target=self._work, name="next batch", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._asked.put(None)  # the thread is not waited for: it may hang on a network that is gone
