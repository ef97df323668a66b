"""A grid's results as people and machines read them: all say the same, and need nothing else."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.tune.results_at_hand import REFERENCES, make_early, make_failure, make_result, write_grid_of
from tune.charts import POINTS, thin
from tune.columns import ACTION, CHANGE, COLUMNS, FOOTNOTES, ONE_SEED_NOTE, POSITION, notes_of
from tune.export import to_csv, to_json
from tune.leaderboard import collect, render_leaderboard
from tune.page import to_html
from tune.record import GRID, GridRecord
from tune.report import CSV, JSON, REPORT, render_terminal, write_report
from tune.results import METRICS, TrialResult, make_tables
from tune.variants import ROUND1
from worldmodel.run.record import Estimate, State
from worldmodel.storage import Location

FETCHING = {"src", "srcset", "data", "action", "poster"}
"""Attributes that make a browser fetch something."""


class Page(HTMLParser):
    """What a browser would see: visible text by tag, and every address that it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.links: list[str] = []
        self.policy = ""
        self.cells: list[list[str]] = []
        self.text = ""
        self.styles = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in FETCHING]
        self.links += [value or "" for name, value in attributes if name == "href"]
        if ("http-equiv", "Content-Security-Policy") in attributes:
            self.policy = dict(attributes)["content"] or ""
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


def read_csv(trials: list[TrialResult]) -> dict[tuple[str, str, str, str], dict[str, str]]:
    """Lines by kind, horizon, name and metric."""
    lines = list(csv.DictReader(io.StringIO(to_csv(make_tables(trials), trials))))
    found = {
        (line["kind"] + line["stopped_early"], line["horizon"], line["name"], line["metric"]): line for line in lines
    }
    assert len(found) == len(lines)
    return found


def to_page(folder: Path, trials: list[TrialResult], grid: GridRecord | None = None) -> Page:
    return Page(to_html(Location.of(folder), make_tables(trials), trials, grid))


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    trials = make_grid()
    page = Page(to_html(Location.of(tmp_path), make_tables(trials), trials))
    assert page.addresses == []
    assert page.links
    assert all(link.startswith("./") for link in page.links)
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert not any("http" in value or "*" in value for value in rules.values())
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
    assert re.search(r'"name":"1a".{0,200}"x":\[1\.0,2\.0\],"y":\[7\.5,3\.75\]', text)


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
    page = to_page(tmp_path, make_grid())
    rows = {row[0]: row for row in page.cells if row[0] in ROUND1}
    assert rows.keys() == set(ROUND1)
    assert [name for name, row in rows.items() if any(cell.endswith("*") for cell in row)] == ["3a-1a-2a"]
    for name, row in rows.items():
        shown = {cell.rstrip("*") for cell in row}
        for column in (POSITION, CHANGE, ACTION):
            assert column.format_published(name) in shown
    assert CHANGE.format_published("3a-1a") == "73.7"
    assert all(note in page.text for note in FOOTNOTES)
    assert any("* 3a-1a-2a was published after one epoch" in note for note in FOOTNOTES)
    assert any("against the last context frame" in note for note in FOOTNOTES)
    assert any("95%" in note for note in FOOTNOTES)


def test_every_row_of_a_table_has_as_many_cells_as_its_heading(tmp_path: Path) -> None:
    cells = to_page(tmp_path, [*make_grid(), make_early("2a", 7)]).cells
    starts = [n for n, row in enumerate(cells) if row[0] in ("experiment", "trial")]
    assert [cells[n][0] for n in starts] == ["experiment", "experiment", "trial", "trial"]
    for start, end in pairwise([*starts, len(cells)]):
        rows = [row for row in cells[start:end] if row[0]]  # a heading over a heading has an empty first cell
        assert len({len(row) for row in rows}) == 1
    assert [row[0] for row in cells].count("persistence") == 3


def test_a_difference_is_marked_only_where_its_interval_leaves_zero_out(tmp_path: Path) -> None:
    changes = {"1a": (-0.1, -0.1), "2a": (0.1, 0.1), "1a-2a": (-0.2, 0.1)}
    trials = [make_result("baseline", seed, 0.3 + seed) for seed in range(2)]
    trials += [
        make_result(name, n, 0.3 + n + change) for name, both in changes.items() for n, change in enumerate(both)
    ]
    text = to_html(Location.of(tmp_path), make_tables(trials), trials)
    lines = {line.split("<td>")[1].split("<")[0]: line for line in text.splitlines() if "<td>" in line}
    marks = {name: re.findall('class="(better|worse)"', lines[name]) for name in changes}
    assert marks == {"1a": ["better", "worse"], "2a": ["worse", "better"], "1a-2a": []}  # position, change


def test_the_headline_is_of_the_grids_own_record(tmp_path: Path) -> None:
    trials, folder = make_grid(2), Location.of(tmp_path / "grid")
    spent = {"seconds": 600.0, "estimated_seconds": 660.0, "cost_usd": 2.0, "estimated_cost_usd": 1.0}
    end = {"state": State.STOPPED, "reason": "budget", "resume_command": "go on", "commit": "c0ffee"}
    write_grid_of(folder, trials, **spent, **end)
    write_report(folder, trials)
    page = Page((folder / REPORT).read_text())
    for text in ("10m00s (estimated 11m00s)", "$2.00 (estimated $1.00)", "c0ffee", "tune/round1.py"):
        assert text in page.text
    assert "The grid: stopped: budget" in page.text
    assert "It goes on with: go on" in page.text
    assert "14 of 15 trials finished, 1 not finished" in page.text


def test_the_page_says_what_is_no_better_than_no_training(tmp_path: Path) -> None:
    good = [make_result("baseline", seed, 0.25 + 1e-4 * seed) for seed in range(2)]
    bad = [make_result("1a", seed, 0.6 + 1e-4 * seed) for seed in range(2)]
    for seed, result in enumerate((*good, *bad)):  # 0.5 is every reference
        assert result.evaluation is not None
        result.evaluation["rows"]["model"][CHANGE.metric] = 0.7 + 1e-4 * seed
    assert "Every row beats kinematic" in to_page(tmp_path, good).text
    page = to_page(tmp_path, [*good, *bad])
    assert "Not better: 1a: position MAE 0.600 is above kinematic's 0.500" in page.text
    assert "Every row beats kinematic" not in page.text
    assert "not better: 1a" in render([*good, *bad], 120)


def test_every_table_says_which_games_epochs_were_validated_on(tmp_path: Path) -> None:
    some = {"validated_games": (64, 2152)}
    early, done = make_early("1a", 0), make_result("baseline", 0)
    trials = [replace(trial, record=trial.record.model_copy(update=some)) for trial in (early, done) if trial.record]
    said = "epochs were validated on 64 of 2,152 games"
    folder = Location.of(tmp_path)
    write_grid_of(folder, trials)
    tables = write_report(folder, trials)
    assert len(tables) == 2 and all(any(said in note for note in notes_of(table)) for table in tables)
    assert (folder / REPORT).read_text().count(said) == 2
    assert [trial["validated_games"] for trial in to_json(tables, trials)["trials"]] == [64, 64]
    page = io.StringIO()
    Console(file=page, width=200).print(render_leaderboard(collect(folder).to_json()))
    assert said in page.getvalue()


def test_one_seed_is_said_to_have_no_interval(tmp_path: Path) -> None:
    one, three = make_grid(1), make_grid(3)
    assert ONE_SEED_NOTE in render(one, 120)
    assert ONE_SEED_NOTE in to_page(tmp_path, one).text
    assert "±" not in "".join(cell for row in to_page(tmp_path, one).cells for cell in row if cell != "mean ±")
    assert ONE_SEED_NOTE not in render(three, 120)
    assert ONE_SEED_NOTE not in to_page(tmp_path, three).text


@pytest.mark.parametrize("seeds", [1, 3])
def test_csv_and_json_hold_the_same_numbers(seeds: int) -> None:
    trials = [*make_grid(seeds), make_early("2a", seeds)]
    lines = read_csv(trials)
    told = json.loads(json.dumps(to_json(make_tables(trials), trials)))
    seen = set()

    def compare(key: tuple[str, str, str, str], prefix: str, numbers: dict[str, Any]) -> None:
        seen.add(key)
        for name, value in numbers.items():
            text = lines[key][prefix + name]
            assert (float(text) if text else None) == value

    for table in told["tables"]:
        ahead = str(table["horizon"])
        for row in table["rows"]:
            name = row["names"][0] if table["stopped_early"] else row["experiment"]
            for metric, found in row["metrics"].items():
                key = (f"experiment{table['stopped_early']}", ahead, name, metric)
                compare(key, "", {**found, "steps": row["steps"], "cost_usd": row["cost_usd"]})
                compare(key, "difference_", row["difference"].get(metric, {}))
                field = next((column.published for column in COLUMNS if column.metric == metric), "")
                compare(key, "", {"published": told["published"][row["experiment"]].get(field)})
        for name, values in table["references"].items():
            for metric in METRICS:
                compare((f"reference{table['stopped_early']}", ahead, name, metric), "", {"mean": values[metric]})
    for trial in told["trials"]:
        for metric in METRICS if trial["metrics"] else ():
            key = (f"trial{trial['stopped_early']}", str(trial["horizon"]), trial["name"], metric)
            compare(key, "", {"mean": trial["metrics"][metric], "seconds": trial["seconds"], "seed": trial["seed"]})
    unfinished = {key for key in lines if key[0] == "trialFalse" and not key[3]}
    assert {key[2] for key in unfinished} == {trial["name"] for trial in told["trials"] if not trial["metrics"]}
    assert seen | unfinished == lines.keys()


def test_json_has_every_trial_and_its_reason() -> None:
    trials = make_grid(2)
    told = to_json(make_tables(trials), trials)["trials"]
    assert [t["name"] for t in told] == [t.name for t in trials]
    assert [t["failure"] for t in told if not t["finished"]] == ["failed: NonFiniteError: loss is nan"]
    assert told[-1]["metrics"] is None
    assert all(t["cost_usd"] == pytest.approx(0.1) and t["seconds"] == 60.0 for t in told)  # 6 dollars an hour
    assert all(t["card"] == f"{t['name']}/card.md" for t in told)


def test_an_estimate_stands_beside_what_a_trial_took(tmp_path: Path) -> None:
    trial = make_result("1a", 0)
    assert trial.record is not None
    trial = replace(trial, record=trial.record.model_copy(update={"estimate": Estimate(seconds=90.0, step=3)}))
    [told] = to_json(make_tables([trial]), [trial])["trials"]
    assert (told["estimated_seconds"], told["estimated_cost_usd"]) == (90.0, pytest.approx(0.15))
    assert {"1m00s", "1m30s", "$0.10", "$0.15"} <= set(to_page(tmp_path, [trial]).cells[-1])


def test_a_number_that_is_none_is_null_in_json() -> None:
    trials = [make_result("1a", 0, math.nan), make_result("1a", 1, math.inf)]
    text = json.dumps(to_json(make_tables(trials), trials), allow_nan=False)
    assert json.loads(text)["tables"][0]["rows"][0]["metrics"]["loss/total"]["mean"] is None


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_terminals_table_is_uncut(width: int) -> None:
    trials = [*make_grid(), make_early("2a", 3)]
    lines = render(trials, width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    for name in (*ROUND1, *REFERENCES):
        assert any(line.startswith(f"{name.removesuffix(' next action')} ") for line in lines), name
    assert sum(line.startswith("persistence ") for line in lines) == 3
    [baseline] = (line for line in lines if line.startswith("baseline "))
    # 0.10, 0.11, 0.12: 4.303 * 0.01 / sqrt(3)
    mean, published, time = ("0.1100", "0.79/64.5", "1m00s") if width > 100 else ("", "", "")
    expected = f"baseline 0.1100 ±0.0248 {mean} 11.0 ±2.5 {mean} {published} 3 {time}"
    assert baseline.split() == expected.split()
    [early] = (line for line in lines if line.startswith("2a-seed3 "))
    assert early.split()[-1 - bool(time)] == "4"
    assert "not finished: 1a-seed3: failed: NonFiniteError: loss is nan" in lines


def test_what_was_stopped_early_stands_apart_and_is_said_not_to_compare(tmp_path: Path) -> None:
    trials = [*make_grid(), make_early("2a", 3)]
    full, early = render(trials, 120).split("stopped early by the scheduler: not comparable")
    assert "2a-seed3" not in full
    assert not any(line.startswith(("baseline ", "1a ", "3a ")) for line in early.splitlines())
    assert "1 stopped early by the scheduler" in to_page(tmp_path, trials).text


def test_lookahead_stands_apart() -> None:
    first, second = render(make_grid(), 120).split("2 frames ahead (lookahead)")
    assert "one frame ahead" in first
    assert not re.search(r"^3a", first, re.M)
    assert not re.search(r"^(baseline|1a|2a|1a-2a) ", second, re.M)


def test_the_files_hold_what_is_returned(tmp_path: Path) -> None:
    trials, folder = make_grid(), Location.of(tmp_path)
    tables = write_report(folder, trials)
    assert tables == make_tables(trials)
    assert json.loads((folder / JSON).read_text()) == json.loads(json.dumps(to_json(tables, trials)))
    assert (folder / CSV).read_bytes().decode() == to_csv(tables, trials)
    assert (folder / REPORT).read_text() == to_html(folder, tables, trials)


def test_a_folder_that_cannot_be_read_costs_its_curve_and_not_the_report(tmp_path: Path) -> None:
    (tmp_path / "1a-seed0").write_text("no folder")
    trials = [make_failure("1a", 0, "no room"), make_result("2a", 0)]
    assert len(write_report(Location.of(tmp_path), trials)) == 1


def test_a_grid_in_which_nothing_finished_has_a_report_all_the_same(tmp_path: Path) -> None:
    trials = [make_failure("1a", 0, "no room")]
    assert write_report(Location.of(tmp_path), trials) == []
    assert "no room" in Page((tmp_path / REPORT).read_text()).text


def test_a_torn_record_of_the_grid_costs_the_headline_and_not_the_report(tmp_path: Path) -> None:
    (tmp_path / GRID).write_text("{")
    assert len(write_report(Location.of(tmp_path), [make_result("1a", 0)])) == 1


def test_a_curve_is_thinned_by_means_and_keeps_its_sum() -> None:
    points = [(step, float(step % 7)) for step in range(1, 1001)]
    steps, values = thin(points)
    assert len(steps) == len(values) == POINTS
    assert steps == sorted(steps)
    assert abs(sum(values) / POINTS - sum(value for _, value in points) / 1000) < 0.05
    assert thin(points[:5]) == ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0])


def test_nothing_is_called_best(tmp_path: Path) -> None:
    trials = make_grid()
    assert "best" not in to_page(tmp_path / "grid", trials).text.lower()
    assert "best" not in render(trials, 120).lower()


def test_screen_report_and_json_give_the_same_answers(tmp_path: Path) -> None:
    trials = make_grid()
    tables = make_tables(trials)
    told = to_json(tables, trials)
    answers = [answer["text"] for verdict in told["verdicts"] for answer in verdict["answers"]]
    assert len(answers) == 2 * (len(ROUND1) - 2)  # two questions; a table of lookahead is compared with its first row
    page, screen = to_page(tmp_path, trials).text, " ".join(render(trials, 120).split())
    for text in (*answers, *told["cautions"]):
        assert text[1:] in page and text in screen


def test_every_trial_links_to_its_card_as_a_page(tmp_path: Path) -> None:
    trials = make_grid(2)
    cards = [link for link in to_page(tmp_path, trials).links if "card" in link]
    assert cards == [f"./{trial.name}/card.html" for trial in trials]


def test_a_column_without_published_numbers_is_left_out(tmp_path: Path) -> None:
    trials = [replace(trial, experiment=f"my {trial.experiment}") for trial in make_grid(2)]
    assert "published</th>" in to_html(Location.of(tmp_path), make_tables(make_grid(2)), make_grid(2))
    assert "published</th>" not in to_html(Location.of(tmp_path), make_tables(trials), trials)
