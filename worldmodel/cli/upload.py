"""`worldmodel upload`: games to where they are encoded and trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from shlex import quote
from typing import Annotated, ClassVar

from tyro.conf import Positional

from worldmodel.cli.verb import Result, Verb, as_result, metavar
from worldmodel.progress import showing_progress


@dataclass(frozen=True, kw_only=True)
class Upload(Verb):
    """Bring games to an object store: parsed games in tar shards packed on the way, tar shards and .pt as they are.

    Run it again to go on after an interruption, to bring changed and new games, or to mend what was damaged there: what
    is there already, whole, is not sent again.
    """

    opening: ClassVar[str] = "reading the games"
    tells_bytes: ClassVar[bool] = True

    source: Annotated[Positional[str], metavar("GAMES")]
    """Folder of parsed games or tar shards, or a .pt file."""
    out: Annotated[Positional[str], metavar("URI")]
    """Folder to bring them to: s3://, gs:// or az://."""
    shard_mb: Annotated[float, metavar("MB")] = 200.0
    """Size of a shard in megabytes."""
    threads: Annotated[int, metavar("N")] = 16
    """Requests under way at once."""
    read_back: bool = False
    """Read all that is there already and compare its sha256; without, its size and the store's own tag must do."""

    def run(self) -> Result:
        from worldmodel.games.upload import UploadOptions, upload_games

        options = UploadOptions(shard_mb=self.shard_mb, threads=self.threads, read_back=self.read_back)
        with showing_progress() as tell:
            return as_result(upload_games(self.source, self.out, options, tell))

    def render(self, result: Result) -> str:
        rejected = [f"{entry['file']}: {entry['reason']}" for entry in result["rejected"]]
        shown = {name: value for name, value in result.items() if value not in ([], 0) or name in ("sent", "skipped")}
        text = super().render({**shown, **({"rejected": rejected} if rejected else {})})
        name = PurePosixPath(self.source).name
        games = f"{self.out.rstrip('/')}/{name}" if name.endswith(".pt") else self.out  # no folder is read for a .pt
        return f"{text}\n\nnext: worldmodel encode {quote(games)} BLOCKS"
