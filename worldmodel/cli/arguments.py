"""Arguments of a command, checked before anything heavy is imported.

An option that is given twice is refused unless it has several values: tyro lets the last one win without a word.
"""

from __future__ import annotations

import os
import re
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from tyro.conf import FlagCreatePairsOff, UseAppendAction

from worldmodel.errors import UserError

_MANY, _SWITCH, _ONE = "many", "switch", "one"
ADDRESS = re.compile(r"(s3|gs|gcs|az|abfss?|https?|file):|[a-z]+://")
"""How a value begins that can only be meant as a URI."""


def parse_arguments(kind: Any, arguments: Sequence[str] | None, **how: Any) -> Any:
    """What the arguments (None: the process's own) ask for; `how` is `tyro.cli`'s.

    UserError where an option that has one value is given twice, or a value is an address that cannot be used; whatever
    else is wrong ends the process with status 2 and an explanation.
    """
    open_closed_streams()
    given = sys.argv[1:] if arguments is None else arguments
    config = (FlagCreatePairsOff, *how.pop("config", ()))
    options = tyro.cli(kind, args=join_repeated(kind, given), config=config, **how)
    check_addresses(options)
    return options


def check_addresses(options: Any) -> None:
    """UserError for a URI where a local path is expected, and for one that names no place, as s3:/x."""
    for option in fields(options):
        value = getattr(options, option.name)
        if is_dataclass(value):
            check_addresses(value)
        elif isinstance(value, Path) and ADDRESS.match(str(value)):
            raise UserError(f"{option.name} {value}: expected a path on this machine, found an address")
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and ADDRESS.match(text):
                from worldmodel.address import read_address

                read_address(text)


def open_closed_streams() -> None:
    """Give a process that was started without standard streams empty ones: files that it opens later must not take
    their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


@dataclass
class _Given:
    """One occurrence of an option."""

    name: str
    words: list[str]

    @property
    def values(self) -> list[str]:
        """The words behind the name."""
        return [*self.words[0].split("=", 1)[1:], *self.words[1:]]


def join_repeated(kind: Any, arguments: Sequence[str]) -> list[str]:
    """The arguments with each option once: the values of one that has several stand where it is given last."""
    modes, given = _find_modes(_choose_kind(kind, arguments)), list(_split(arguments))
    last: dict[str, _Given] = {}
    for option in given:
        mode, before = modes.get(option.name), last.get(option.name)
        if before is not None and mode == _ONE:
            raise UserError(f"{option.name}: given twice ({_show(before)}; {_show(option)}), expected once")
        if before is not None and mode == _MANY:
            option.words = [option.name, *before.values, *option.values]
            before.words = []
        last[option.name] = option
    return [word for option in given for word in option.words]


def _show(option: _Given) -> str:
    return " ".join(option.words)


def _split(arguments: Sequence[str]) -> Iterator[_Given]:
    """Runs of words, each from one option up to the next; what comes before the first has no name."""
    current = _Given("", [])
    for word in arguments:
        if word.startswith("--") and len(word) > 2:
            yield current
            current = _Given(word.partition("=")[0].replace("_", "-"), [])
        current.words.append(word)
    yield current


def _choose_kind(kind: Any, arguments: Sequence[str]) -> Any:
    """The class whose options the arguments give: verbs are chosen by name."""
    for word in arguments:
        choices = dict(_list_verbs(kind))
        if not choices:
            break
        kind = choices.get(word, kind)
    return kind


def _list_verbs(kind: Any) -> Iterator[tuple[str, Any]]:
    if is_dataclass(kind):  # a verb of verbs holds them in its only field
        hints = typing.get_type_hints(kind, include_extras=True)
        kind = hints.get("verb")
    if typing.get_origin(kind) in (Union, types.UnionType):
        for part in typing.get_args(kind):
            names = [getattr(mark, "name", None) for mark in getattr(part, "__metadata__", ())]
            yield from ((name, part.__origin__) for name in names if name)


def _find_modes(kind: Any) -> dict[str, str]:
    """How often each option may be given."""
    if not is_dataclass(kind):
        return {}
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {f"--{field.name.replace('_', '-')}": _find_mode(hints[field.name]) for field in fields(kind)}
    return {name: mode for name, mode in found.items() if mode}


def _find_mode(hint: Any) -> str:
    marks: tuple[Any, ...] = ()
    while typing.get_origin(hint) is Annotated:
        marks, hint = (*marks, *hint.__metadata__), hint.__origin__
    if any(mark is UseAppendAction or mark in _APPEND for mark in marks):
        return ""
    if hint is bool:
        return _SWITCH
    return _MANY if typing.get_origin(hint) in (tuple, list) else _ONE


_APPEND = getattr(UseAppendAction[int], "__metadata__", ())
"""What tyro marks an option with that counts together by itself."""
