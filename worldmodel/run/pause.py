"""Reasons for which a run saves itself and goes on elsewhere, instead of ending."""

from __future__ import annotations

NOTICE = "notice: a machine is about to be taken away"
RESIZE = "resize: the number of workers changes"
CHANNELS = ("gloo", "NCCL")
"""What workers talk to each other through: an error of these says that another has ended."""


def is_pause(reason: str | None) -> bool:
    """Whether a request to stop is one to go on elsewhere."""
    return bool(reason) and str(reason).startswith((NOTICE, RESIZE))


def is_consequence(error: BaseException) -> bool:
    """Whether this is how a worker notices that another one has ended."""
    return isinstance(error, RuntimeError) and any(name in str(error) for name in CHANNELS)
