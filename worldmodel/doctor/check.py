"""One line of the preflight: what was looked at, how it stands, and what to do where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from worldmodel.errors import UserError


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """Nothing fails by it, but it costs time, money or comfort."""
    FAILED = "failed"
    """A run would fail by it, or compute something wrong."""
    SKIPPED = "skipped"
    """There is nothing to look at here."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one check found."""

    name: str
    """What was looked at, such as "storage"."""
    outcome: Outcome
    found: str
    """What there is, in a sentence."""
    remedy: str = ""
    """What to do; empty where nothing need be done."""
    machine: str = ""
    """Where it was looked at; empty: here, or for all machines."""

    @property
    def is_failed(self) -> bool:
        """Whether a run would fail by it."""
        return self.outcome is Outcome.FAILED


def passed(name: str, found: str) -> Check:
    """A check that found all as it should be."""
    return Check(name=name, outcome=Outcome.OK, found=found)


def warned(name: str, found: str, remedy: str) -> Check:
    """A check that found something which costs time, money or comfort."""
    return Check(name=name, outcome=Outcome.WARNING, found=found, remedy=remedy)


def failed(name: str, found: str, remedy: str) -> Check:
    """A check that found what a run would fail by."""
    return Check(name=name, outcome=Outcome.FAILED, found=found, remedy=remedy)


def skipped(name: str, found: str) -> Check:
    """A check that has nothing to look at."""
    return Check(name=name, outcome=Outcome.SKIPPED, found=found)


def place_at(machine: str, checks: Iterable[Check]) -> list[Check]:
    """The same checks, made on a machine."""
    return [replace(check, machine=machine) for check in checks]


def attempt(name: str, examine: Callable[[], Iterable[Check]]) -> list[Check]:
    """What a family of checks finds; one that breaks is a failed line of its own, and the others go on."""
    try:
        return list(examine())
    except UserError as error:
        return [failed(name, str(error), "see the message")]
    except Exception as error:  # noqa: BLE001  (the edge between a preflight and whatever may be broken: told)
        text = " ".join(str(error).split())[:400]
        return [failed(name, f"the check itself broke: {type(error).__name__}: {text}", "report it, with this line")]
