"""The Grafana dashboard and its provisioning agree with the gauges, with each other and with Grafana's file format."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from worldmodel.run.gauges import GAUGES, MORE_TAGS, PREFIX, TAGS

GRAFANA = Path(__file__).parents[2] / "infra/monitoring/grafana"
WIDTH = 24
"""Columns of Grafana's grid."""


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / "dashboard.json").read_text())
    return found


def test_every_gauge_has_a_panel_and_every_panel_shows_gauges(dashboard: dict[str, Any]) -> None:
    shown = [re.findall(rf"\bray_{PREFIX}(\w+)", t["expr"]) for p in dashboard["panels"] for t in p["targets"]]
    assert all(shown)
    assert {name for names in shown for name in names} == set(GAUGES)


def test_grids_and_runs_are_chosen_by_tags_that_the_gauges_have(dashboard: dict[str, Any]) -> None:
    variables = {v["name"]: v for v in dashboard["templating"]["list"]}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            used = re.findall(r"(\w+)=~\"\$(\w+)\"", target["expr"])
            assert sorted(used) == [("grid", "grid"), ("run", "run")]
            legend = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            assert set(legend) <= {*TAGS, *(tag for tags in MORE_TAGS.values() for tag in tags)}
    assert {name for name, _ in used} <= set(TAGS) & set(variables)
    assert all(variables[name]["includeAll"] and variables[name]["allValue"] == ".*" for name, _ in used)


def test_panels_have_their_own_ids_and_places(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({p["id"] for p in panels}) == len({p["title"] for p in panels}) == len(panels)
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= WIDTH for p in panels)
    for one, two in combinations([p["gridPos"] for p in panels], 2):
        is_beside = one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"]
        is_above = one["y"] + one["h"] <= two["y"] or two["y"] + two["h"] <= one["y"]
        assert is_beside or is_above


def test_panels_read_a_source_that_the_provisioning_makes(dashboard: dict[str, Any]) -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    variables = {v["name"]: v for v in dashboard["templating"]["list"]}
    for part in (*dashboard["panels"], *(t for p in dashboard["panels"] for t in p["targets"])):
        assert part["datasource"] == {"type": source["type"], "uid": "${datasource}"}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", source["type"])


def test_the_commands_of_the_readme_set_what_the_provisioning_reads() -> None:
    used = {
        name for path in GRAFANA.rglob("*.yml") for name in re.findall(r"\$\{?([A-Z_]+)", path.read_text())
    }  # fmt: skip
    text = (GRAFANA.parent / "README.md").read_text()
    assert used
    assert all(re.search(rf"\b{name}=", text) for name in used)
