"""Reasons to save a checkpoint and restart on other machines, in contrast to a stop."""

from __future__ import annotations

NOTICE = "notice: a machine is about to be taken away"
RESIZE = "resize: the number of workers changes"
CHANNELS = ("gloo", "NCCL")
"""Names in the errors of torch.distributed's backends, raised when another worker has exited."""


def is_pause(reason: str | None) -> bool:
    """True if a stop reason is a pause: the run resumes on other machines."""
    return bool(reason) and str(reason).startswith((NOTICE, RESIZE))


def is_consequence(error: BaseException) -> bool:
    """True if an error is only the consequence of another worker's exit."""
    return isinstance(error, RuntimeError) and any(name in str(error) for name in CHANNELS)
