"""The check's page: plain HTML that needs nothing else, one table per part."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1280px; padding: 0 1.5rem; color: #1f2328 }
h2 { margin: 2.2rem 0 .2rem; font-size: 1.15rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; margin-top: .5rem }
th, td { padding: .25rem .6rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e3e6ea }
td.number { text-align: right; white-space: nowrap } th.number { text-align: right }
.passed { color: #00694b } .failed, .timed { color: #b3261e; font-weight: 600 } .skipped { color: #667 }
pre { background: #f6f8fa; padding: .6rem; font-size: .78rem; overflow-x: auto } p { margin: .2rem 0 }
"""


def render_page(found: Mapping[str, Any]) -> str:
    """The page of what the JSON file holds."""
    machine, parts = found["machine"], found["parts"]
    gpus = "; ".join(machine["gpus"]) or "no GPU"
    facts = f"{gpus} · {machine['cores']} cores, {machine['memory_gib']} GiB · Python {machine['python']}"
    body = [f"<h1>GPU check</h1><p>{html.escape(facts)}</p><p>{html.escape(found['began'])}</p>", _overview(parts)]
    for part in parts:
        body += _render_part(part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>GPU check</title>\n'
        f"<style>{STYLE}</style></head><body>\n{chr(10).join(body)}\n</body></html>\n"
    )


def _overview(parts: list[dict[str, Any]]) -> str:
    rows = [
        f'<tr><td><a href="#{part["name"]}">{part["name"]}</a></td><td>{html.escape(part["about"])}</td>'
        f"<td>{_state(part)}</td>{_cell(part['seconds'])}<td>{html.escape(part['summary'])}</td></tr>"
        for part in parts
    ]
    head = '<tr><th>part</th><th></th><th>state</th><th class="number">seconds</th><th></th></tr>'
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _render_part(part: dict[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{part["name"]}">{part["name"]}: {html.escape(part["about"])}</h2>'
    yield f"<p>{_state(part)}, {part['seconds']:g} of {part['limit']} s. {html.escape(part['summary'])}</p>"
    if part["rows"]:
        yield _render_rows(part["rows"])
    if part["error"]:
        yield f"<pre>{html.escape(part['error'])}</pre>"


def _render_rows(rows: list[dict[str, Any]]) -> str:
    """Columns in the order in which they first appear, remarks last."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    names.sort(key=lambda name: ("note", "error").index(name) + 1 if name in ("note", "error") else 0)
    numeric = {name for name in names if all(_is_number(row[name]) for row in rows if name in row)}
    head = "".join(f"<th{' class=number' * (name in numeric)}>{html.escape(name)}</th>" for name in names)
    lines = [
        "".join(_cell(row.get(name, ""), "failed" * (name == "error")) for name in names) for row in rows
    ]  # fmt: skip
    return f'<div class="wide"><table><tr>{head}</tr><tr>{"</tr><tr>".join(lines)}</tr></table></div>'


def _cell(value: Any, style: str = "") -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if _is_number(value):
        text = f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1e4 else f"{value:,.0f}"
    return f'<td class="{"number" if _is_number(value) else style}">{html.escape(text)}</td>'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _state(part: dict[str, Any]) -> str:
    return f'<span class="{part["state"]}">{part["state"]}</span>'
