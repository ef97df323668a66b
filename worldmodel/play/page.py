"""The page of `worldmodel play`: it sends what a person holds, and draws the frames that come back."""

from __future__ import annotations

import html

from worldmodel.film.camera import ASPECT
from worldmodel.film.page import look_of_page, read_asset, wrap_page


def to_html(run: str, host: str) -> str:
    """The page of a run, for a server at `host` (address and port)."""
    policy = (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
        f"connect-src ws://{host}"
    )
    body = read_asset("play.html", room="worldmodel.play").replace("{run}", html.escape(run))
    content = {"look": look_of_page(), "aspect": ASPECT}
    return wrap_page(
        f"play in {run}", body, content, style="film.css", policy=policy,
        scripts=(read_asset("scene.js"), read_asset("play.js", room="worldmodel.play")),
    )  # fmt: skip
