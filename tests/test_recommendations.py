"""Every option and command that a message recommends exists, in whatever command shows the message."""

from __future__ import annotations

import ast
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cluster.up import Up
from tune.options import GridRequest
from tune.round1 import Round1
from worldmodel.cli.main import Command

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("worldmodel", "tune", "cluster") for path in sorted((ROOT / folder).rglob("*.py"))]
OTHERS = (
    "ray",
    "aws",
    "gcloud",
    "az",
    "docker",
    "pip",
    "sky",
    "git",
    "conda",
    "kubectl",
    "terraform",
    "nvidia-smi",
    "sh",
)
"""Other programs, whose options are none of ours."""
CONTAINER = ("--gpus", "--shm-size")
"""Options of container engines."""
SHOWN_BY = {
    "worldmodel/blocks/alarms.py": ("worldmodel encode", "worldmodel train", "tune/grid.py", "tune/round1.py"),
    "worldmodel/experiment/layers.py": ("worldmodel train", "worldmodel plan", "worldmodel config", "tune/grid.py"),
    "worldmodel/run/run_folder.py": ("worldmodel train",),
    "worldmodel/run/train.py": ("worldmodel train",),
}
"""Whose request is checked there; other commands import it only."""
SILENT = ("worldmodel/doctor/rehearsal.py", "worldmodel/cli/leaderboard.py")
"""These ask for nothing of the user's that what they import would refuse."""
ECHO = re.compile(r"^X? ?--[a-z-]+")
"""What the user has given is repeated, and a command is put together."""
GRID = re.compile(r"tune/grid.py([^`;:)]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
COMMAND = re.compile(r"worldmodel ((?:games )?[a-z]+)([^`;:]*)")
FOREIGN = re.compile(rf"(?<![\w/.-])({'|'.join(OTHERS)}) [^`;]*")


def list_verbs(kind: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Name to class of every verb, also those of `games`."""
    for part in typing.get_args(kind):
        verb = next(mark.name for mark in part.__metadata__ if getattr(mark, "name", None))
        inner = typing.get_type_hints(part.__origin__, include_extras=True).get("verb")
        if typing.get_origin(inner) in (typing.Union, types.UnionType):
            yield from list_verbs(inner, f"{verb} ")
        else:
            yield name + verb, part.__origin__


VERBS = dict(list_verbs(Command))
GRIDS = {"tune/grid.py": GridRequest, "tune/round1.py": Round1}
COMMANDS = {**{f"worldmodel {name}": kind for name, kind in VERBS.items()}, **GRIDS, "cluster/up.py": Up}


def list_options(kind: Any) -> set[str]:
    assert is_dataclass(kind)
    return {f"--{field.name.replace('_', '-')}" for field in fields(kind)} | {"--help"}


def read_texts(path: Path) -> list[str]:
    """The texts of a module that are no documentation; what is filled in is X."""
    tree = ast.parse(path.read_text())
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    inner = {id(part) for node in joined for part in ast.walk(node) if part is not node}
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped | inner:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values))
    return found


@cache
def list_imports(path: Path) -> frozenset[Path]:
    """Modules that a module imports, anywhere in it, but not for types alone."""
    tree = ast.parse(path.read_text())
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    typed = {id(inner) for block in blocks for inner in ast.walk(block)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in typed:
            names |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        if isinstance(node, ast.Import) and id(node) not in typed:
            names |= {name.name for name in node.names}
    paths = {ROOT / f"{name.replace('.', '/')}.py" for name in names}
    return frozenset(path for path in paths if path.exists())


@cache
def reach(path: Path) -> frozenset[Path]:
    """A module and all that it imports in the end; other verbs' modules lend functions, no messages of their own."""
    found, waiting = {path}, [path]
    while waiting:
        at = waiting.pop()
        for other in list_imports(at) - found if str(at.relative_to(ROOT)) not in SILENT else ():
            if other.parent.name != "cli":
                found.add(other)
                waiting.append(other)
    return frozenset(found)


def find_module(kind: Any) -> Path:
    return ROOT / f"{kind.__module__.replace('.', '/')}.py"


def list_commands(path: Path) -> list[str]:
    """Commands that may show what a module says."""
    if path.parent.name == "cli":
        return [name for name, kind in COMMANDS.items() if find_module(kind) == path]
    if path.parent.name == "tune" and path.name != "leaderboard.py":
        return list(GRIDS)
    if shown := SHOWN_BY.get(str(path.relative_to(ROOT))):
        return list(shown)
    starts = {name: ROOT / name if name in GRIDS else find_module(kind) for name, kind in COMMANDS.items()}
    return [name for name, start in starts.items() if path in reach(start)]


def cases() -> Iterator[tuple[str, str]]:
    for path in SOURCES:
        for text in read_texts(path):
            if " " in text.strip() and (OPTION.search(text) or COMMAND.search(text)):  # a word alone is an argument
                yield str(path.relative_to(ROOT)), text


@pytest.mark.parametrize(("path", "text"), cases())
def test_what_a_message_recommends_exists(path: str, text: str) -> None:
    faults = []
    for verb, rest in COMMAND.findall(text):
        if verb in VERBS:
            faults += [f"worldmodel {verb} {o}" for o in OPTION.findall(rest) if o not in list_options(VERBS[verb])]
    faults += [o for rest in GRID.findall(text) for o in OPTION.findall(rest) if o not in list_options(GridRequest)]
    rest = ECHO.sub("", FOREIGN.sub("", GRID.sub("", COMMAND.sub("", text))))
    bare = [option for option in OPTION.findall(rest) if option not in CONTAINER]
    for command in list_commands(ROOT / path):
        faults += [f"{command} {option}" for option in bare if option not in list_options(COMMANDS[command])]
    assert not faults, text


def test_the_extraction_finds_what_it_must() -> None:
    found = list(cases())
    assert any("--allow" in text for path, text in found if path == "worldmodel/blocks/alarms.py")
    assert {"tune/grid.py", "worldmodel encode", "worldmodel train"} <= set(
        list_commands(ROOT / "worldmodel/errors.py")
    )
