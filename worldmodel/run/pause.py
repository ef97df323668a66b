"""Reasons to save a checkpoint and restart on other machines, in contrast to a stop."""

from __future__ import annotations

from worldmodel.machine.notice import read_notice

NOTICE = "notice: a machine is about to be taken away"
RESIZE = "resize: the number of workers changes"
CHANNELS = ("gloo", "NCCL")
"""Names in the errors of torch.distributed's backends, raised when another worker has exited."""


def find_notice() -> str | None:
    """Reason to pause because of this machine's preemption notice, or None."""
    notice = read_notice()
    return None if notice is None else f"{NOTICE}: {notice.reason}"


def is_pause(reason: str | None) -> bool:
    """True if a stop reason is a pause: the run resumes on other machines."""
    return bool(reason) and str(reason).startswith((NOTICE, RESIZE))


def is_consequence(error: BaseException) -> bool:
    """True if an error is only the consequence of another worker's exit."""
    return isinstance(error, RuntimeError) and any(name in str(error) for name in CHANNELS)
