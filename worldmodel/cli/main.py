"""`worldmodel`: one command, a verb for each thing to do.

Exit status: 0 done, 1 a fault of the program, 2 a request that cannot be carried out, 130 Ctrl-C, or a training run
that was stopped and can go on, 143 SIGTERM. Nothing heavy is imported here or by the verbs' modules: a verb
imports what it needs when it runs.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Annotated

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, subcommand

from worldmodel.cli.arguments import parse_arguments
from worldmodel.cli.blocks import Audit, Encode
from worldmodel.cli.compare import Compare
from worldmodel.cli.config import Config
from worldmodel.cli.doctor import Doctor
from worldmodel.cli.evaluate import Evaluate
from worldmodel.cli.export import Export
from worldmodel.cli.fields import Schema
from worldmodel.cli.film import Film
from worldmodel.cli.follow import Stop, Tail
from worldmodel.cli.games import Pack, Parse, Toy
from worldmodel.cli.leaderboard import Leaderboard
from worldmodel.cli.plan import Plan
from worldmodel.cli.play import Play
from worldmodel.cli.rollout import RollOut
from worldmodel.cli.runs import Fetch, Runs, Show
from worldmodel.cli.train import Train
from worldmodel.cli.upload import Upload
from worldmodel.cli.verb import Verb, to_json
from worldmodel.errors import UserError
from worldmodel.progress import showing_progress
from worldmodel.redaction import hide_secrets, strip_controls


@dataclass(frozen=True, kw_only=True)
class Games:
    """Make games: toy ones, from replays, or packed for object storage."""

    verb: (
        Annotated[Toy, subcommand("toy")] | Annotated[Parse, subcommand("parse")] | Annotated[Pack, subcommand("pack")]
    )


Command = (
    Annotated[Games, subcommand("games")]
    | Annotated[Upload, subcommand("upload")]
    | Annotated[Encode, subcommand("encode")]
    | Annotated[Audit, subcommand("audit")]
    | Annotated[Doctor, subcommand("doctor")]
    | Annotated[Config, subcommand("config")]
    | Annotated[Plan, subcommand("plan")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[RollOut, subcommand("rollout")]
    | Annotated[Film, subcommand("film")]
    | Annotated[Play, subcommand("play")]
    | Annotated[Runs, subcommand("runs")]
    | Annotated[Show, subcommand("show")]
    | Annotated[Tail, subcommand("tail")]
    | Annotated[Stop, subcommand("stop")]
    | Annotated[Compare, subcommand("compare")]
    | Annotated[Leaderboard, subcommand("leaderboard")]
    | Annotated[Fetch, subcommand("fetch")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Schema, subcommand("schema")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status; `arguments` default to the process's own."""
    try:
        with _ending_at_sigterm():
            return run_verb(parse(arguments))
    except UserError as error:
        print(hide_secrets("\n".join([f"error: {error}", *getattr(error, "__notes__", [])])), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except _Sigterm:
        print("ended by SIGTERM", file=sys.stderr)
        return 128 + signal.SIGTERM
    except Exception as error:  # noqa: BLE001  the process's edge
        if isinstance(error, BrokenPipeError) and silence_unread():  # the reader, such as `head`, has seen enough
            return 0
        sys.stderr.write(hide_secrets(traceback.format_exc()))
        return 1


class _Sigterm(SystemExit):
    """Raised by SIGTERM."""


@contextmanager
def _ending_at_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception, as Ctrl-C is, so that temporary files are removed. Main thread only."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Sigterm(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parse(arguments: Sequence[str] | None = None) -> Verb:
    """The verb that the arguments ask for; a wrong one ends the process with status 2 and an explanation."""
    command: Games | Verb = parse_arguments(
        Command,  # type: ignore[arg-type]
        arguments,
        prog="worldmodel",
        description="Train and evaluate world models of Super Smash Bros. Melee.",
        config=(OmitSubcommandPrefixes, OmitArgPrefixes),
    )
    return command.verb if isinstance(command, Games) else command


def run_verb(verb: Verb) -> int:
    """Run a verb, print its result on stdout (as one JSON object, or for people), and return the exit status."""
    with ExitStack() as stack:
        if verb.json:
            stack.enter_context(_stdout_to_stderr())
        if verb.opening:
            stack.enter_context(showing_progress(verb.opening, sizes=verb.tells_bytes))
        result = verb.run()
    print(to_json(result) if verb.json else strip_controls(verb.render(result)), flush=True)
    return verb.judge(result)


def silence_unread() -> bool:
    """Whether nobody reads stdout or stderr any more (another pipe or connection may have broken); what is written
    there from now on vanishes."""
    unread = [handle for handle in (1, 2) if _is_unread(handle)]
    for handle in unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), handle)
    return bool(unread)


def _is_unread(handle: int) -> bool:
    asked = select.poll()
    asked.register(handle, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in asked.poll(0))


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send to stderr whatever is printed meanwhile, also by libraries below Python and by child processes."""
    sys.stdout.flush()
    kept = os.dup(1)
    shown, sys.stdout = sys.stdout, sys.stderr
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout = shown
        os.dup2(kept, 1)
        os.close(kept)


if __name__ == "__main__":
    sys.exit(main())
