"""A run's card as a page for people: on the terminal, and as `card.html`."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from worldmodel.run.page_style import STYLE

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

CARD_PAGE = "card.html"
ALL_METRICS = "All metrics"
"""The section of a card that the terminal leaves out."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser lets the page do: show itself."""


def to_html(name: str, card: str) -> str:
    """The card's Markdown as a page that needs nothing else."""
    body = _make_parser().render(_drop_front(card))
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<title>{html.escape(name)}</title>\n'
        f"<style>{STYLE}th, td {{ text-align: left }}</style></head><body>\n{body}</body></html>\n"
    )


def to_terminal(card: str, width: int) -> str:
    """The card's Markdown as text of so many columns, without its longest section."""
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.rule import Rule

    page = io.StringIO()
    console = Console(file=page, width=width)
    for title, tokens in _split(_make_parser().parse(_drop_front(card))):
        if title != ALL_METRICS:
            section = Markdown("")
            section.parsed = tokens  # rich's own parser would take * and _ in names for emphasis
            console.print(*(["", Rule(title, align="left")] if title else []), section)
    return page.getvalue()


def _make_parser() -> MarkdownIt:
    """A parser for which names, messages and commands are text, whatever they hold."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table").disable(["emphasis", "link", "image", "autolink"])


def _drop_front(card: str) -> str:
    return card.partition("\n---\n")[2] if card.startswith("---\n") else card


def _split(tokens: list[Token]) -> Iterator[tuple[str, list[Token]]]:
    """Title and content of each section; what comes before the first has no title."""
    starts = [place for place, token in enumerate(tokens) if token.type == "heading_open" and token.tag == "h2"]
    yield "", tokens[: starts[0] if starts else None]
    for start, end in zip(starts, [*starts[1:], None], strict=False):
        yield tokens[start + 1].content, tokens[start + 3 : end]
