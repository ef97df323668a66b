"""A grid's results as people and machines read them: all say the same, and need nothing else."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.tune.results_at_hand import REFERENCES, make_failure, make_result
from tune.grid import ROUND1
from tune.report import COLUMNS, CSV, FOOTNOTE, JSON, REPORT, render_terminal, to_csv, to_html, to_json, write_report
from tune.results import METRICS, PUBLISHED, TrialResult, make_tables
from worldmodel.storage import Location

FETCHING = {"src", "href", "srcset", "data", "action", "poster"}
"""Attributes that make a browser fetch something."""


class Page(HTMLParser):
    """What a browser would see: visible text by tag, and every address that it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.styles = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in FETCHING]
        self._inside = tag
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("td", "th"):
            self.cells[-1][-1] += data
        if self._inside == "style":
            self.styles += data
        elif self._inside != "script":
            self.text += data


def make_grid(seeds: int = 3) -> list[TrialResult]:
    """All of Round 1, lookahead two frames ahead, and a trial that failed."""
    trials = [
        make_result(name, seed, 0.1 + 0.01 * seed + 0.03 * place, horizon=1 + name.startswith("3a"))
        for place, name in enumerate(ROUND1)
        for seed in range(seeds)
    ]
    return [*trials, make_failure("1a", seeds, "NonFiniteError: loss is nan")]


def render(trials: list[TrialResult], width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render_terminal(make_tables(trials), trials))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def read_csv(trials: list[TrialResult]) -> dict[tuple[int, str, str], dict[str, str]]:
    lines = list(csv.DictReader(io.StringIO(to_csv(make_tables(trials)))))
    found = {(int(line["horizon"]), line["experiment"], line["metric"]): line for line in lines}
    assert len(found) == len(lines)
    return found


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    trials = make_grid()
    page = Page(to_html(Location.of(tmp_path), make_tables(trials), trials))
    assert page.addresses == []
    assert not {"link", "iframe", "img", "base", "object"} & set(page.tags)
    assert "url(" not in page.styles
    assert "@import" not in page.styles


def test_the_page_draws_the_curves_of_each_trial(tmp_path: Path) -> None:
    (tmp_path / "1a-seed0").mkdir()
    (tmp_path / "1a-seed0" / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, "batch/loss": 7.5 / step}) + "\n" for step in (1, 2))
    )
    trials = [make_result("1a", 0)]
    text = to_html(Location.of(tmp_path), make_tables(trials), trials)
    assert re.search(r'"name":"1a-seed0".{0,200}"x":\[1,2\],"y":\[7\.5,3\.75\]', text)


def test_names_and_reasons_are_text_and_no_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    (tmp_path / f"{evil.replace('/', '')}-seed0").mkdir()
    good = make_result(evil.replace("/", ""), 0)
    (tmp_path / good.name / "metrics.jsonl").write_text('{"step": 1, "batch/loss": 1.0}\n')
    trials = [good, make_failure("<b>bold", 0, evil)]
    clean = [make_result("clean", 0), make_failure("bold", 0, "reason")]
    text = to_html(Location.of(tmp_path / "<i>grid"), make_tables(trials), trials)
    page, expected = (
        Page(text),
        Page(to_html(Location.of(tmp_path / "grid"), make_tables(clean), clean)),
    )
    assert page.tags == expected.tags
    assert evil in page.text
    assert "<i>grid" in page.text
    assert "<b>bold-seed0" in page.text


def test_the_page_says_where_the_published_numbers_differ(tmp_path: Path) -> None:
    trials = make_grid()
    page = Page(to_html(Location.of(tmp_path), make_tables(trials), trials))
    rows = {row[0]: row for row in page.cells if row[0] in ROUND1}
    assert rows.keys() == set(ROUND1)
    assert [name for name, row in rows.items() if any("(1 epoch)" in cell for cell in row)] == ["3a-1a-2a"]
    for name, row in rows.items():
        assert any(cell.startswith(f"{PUBLISHED[name].position_mae} / ") for cell in row)
    assert "3a-1a-2a after one epoch, the others after two" in FOOTNOTE
    assert "95%" in FOOTNOTE
    assert FOOTNOTE in page.text
    assert "NonFiniteError: loss is nan" in page.text


def test_every_row_of_the_page_has_as_many_cells_as_its_heading(tmp_path: Path) -> None:
    trials = make_grid()
    page = Page(to_html(Location.of(tmp_path), make_tables(trials), trials))
    assert len({len(row) for row in page.cells}) == 1
    assert [row[0] for row in page.cells].count("persistence") == 2


@pytest.mark.parametrize("seeds", [1, 3])
def test_csv_and_json_hold_the_same_numbers(seeds: int) -> None:
    trials = make_grid(seeds)
    lines = read_csv(trials)
    told = json.loads(json.dumps(to_json(make_tables(trials), trials)))
    seen = set()

    def compare(line: dict[str, str], prefix: str, statistic: dict[str, Any]) -> None:
        for name, value in statistic.items():
            text = line[prefix + name]
            assert (float(text) if text else None) == value

    for table in told["tables"]:
        for row in table["rows"]:
            for metric, found in row["metrics"].items():
                key = (table["horizon"], row["experiment"], metric)
                seen.add(key)
                assert (lines[key]["data"], int(lines[key]["metric_version"])) == (table["fingerprint"], 1)
                compare(lines[key], "", found)
                compare(lines[key], "difference_", row["difference"].get(metric, {}))
                field = COLUMNS[metric][1] if metric in COLUMNS else ""
                compare(lines[key], "", {"published": told["published"][row["experiment"]].get(field)})
        for name, values in table["references"].items():
            for metric in METRICS:
                seen.add((table["horizon"], name, metric))
                compare(lines[table["horizon"], name, metric], "", {"mean": values[metric]})
    assert seen == lines.keys()


def test_json_has_every_trial_and_its_reason() -> None:
    trials = make_grid(2)
    told = to_json(make_tables(trials), trials)["trials"]
    assert [t["name"] for t in told] == [t.name for t in trials]
    assert [t["failure"] for t in told if not t["finished"]] == ["failed: NonFiniteError: loss is nan"]
    assert told[-1]["metrics"] is None


def test_a_number_that_is_none_is_null_in_json() -> None:
    trials = [make_result("1a", 0, math.nan), make_result("1a", 1, math.inf)]
    text = json.dumps(to_json(make_tables(trials), trials), allow_nan=False)
    assert json.loads(text)["tables"][0]["rows"][0]["metrics"]["loss/total"]["mean"] is None


def test_the_terminals_table_fits_into_120_columns_uncut() -> None:
    shown = render(make_grid(), 120)
    assert max(map(len, shown.splitlines())) <= 120
    assert "…" not in shown
    for name in (*ROUND1, *(heading for heading, *_ in COLUMNS.values())):
        assert re.search(rf"[│┃] *{re.escape(name)} *[│┃]", shown), name
    assert all(shown.count(name.removesuffix(" next action")) == 2 for name in REFERENCES)
    assert "0.110 ±0.025" in shown  # 0.10, 0.11, 0.12: 4.303 * 0.01 / sqrt(3)
    assert "not finished: 1a-seed3: failed: NonFiniteError: loss is nan" in shown


def test_lookahead_stands_apart() -> None:
    first, second = render(make_grid(), 120).split("2 frames ahead (lookahead)")
    assert "one frame ahead" in first
    assert not re.search(r"│ 3a", first)
    assert not re.search(r"│ (baseline|1a|2a|1a-2a) ", second)


def test_the_files_hold_what_is_returned(tmp_path: Path) -> None:
    trials, folder = make_grid(), Location.of(tmp_path)
    tables = write_report(folder, trials)
    assert tables == make_tables(trials)
    assert json.loads((folder / JSON).read_text()) == json.loads(json.dumps(to_json(tables, trials)))
    assert (folder / CSV).read_bytes().decode() == to_csv(tables)
    assert re.sub("[0-9a-f-]{36}", "", (folder / REPORT).read_text()) == re.sub(
        "[0-9a-f-]{36}", "", to_html(folder, tables, trials)
    )


def test_a_folder_that_cannot_be_read_costs_its_curve_and_not_the_report(tmp_path: Path) -> None:
    (tmp_path / "1a-seed0").write_text("no folder")
    trials = [make_failure("1a", 0, "no room"), make_result("2a", 0)]
    assert len(write_report(Location.of(tmp_path), trials)) == 1


def test_a_grid_in_which_nothing_finished_has_a_report_all_the_same(tmp_path: Path) -> None:
    trials = [make_failure("1a", 0, "no room")]
    assert write_report(Location.of(tmp_path), trials) == []
    assert "no room" in Page((tmp_path / REPORT).read_text()).text
