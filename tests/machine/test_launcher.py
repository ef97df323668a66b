"""The providers of machines that our clusters' files name: what they ask a cloud for when it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.launcher import CLOUDS, prepare, tag_for
from worldmodel.machine import launcher

MINUTE = 60.0


class Cloud:
    """In place of Ray's provider: it has no spot machine, and notes what it is asked for."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        self.provider_config, self.cluster_name = provider_config, cluster_name
        self.asked: list[dict[str, Any]] = []
        self.has_spot = False

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> str:
        self.asked.append(node_config)
        if not self.has_spot and is_spot(node_config):
            raise RuntimeError("InsufficientInstanceCapacity")
        return "machine"


def is_spot(node_config: dict[str, Any]) -> bool:
    """Whether a cloud would take the machine away."""
    return any(word in repr(node_config).lower() for word in ("spot", "evict"))


class Case:
    """A provider of a file, on a clock that stands still."""

    def __init__(self, stem: str, minutes: float, patch: pytest.MonkeyPatch) -> None:
        from ray.autoscaler._private.providers import _NODE_PROVIDERS

        config = prepare(stem)
        cloud = launcher.name_cloud(config["provider"])
        patch.setitem(_NODE_PROVIDERS, cloud, lambda _: Cloud)
        patch.setattr(launcher.time, "monotonic", lambda: self.now)
        self.now = 1000.0
        self.provider = launcher.make_provider.__wrapped__(cloud)({"on_demand_after_minutes": minutes}, "worldmodel")
        self.node, self.tags = config["available_node_types"]["a100"]["node_config"], tag_for(config, "a100")

    def ask(self, after: float) -> bool:
        """Ask for a machine some seconds later; whether there is one."""
        self.now += after
        try:
            return bool(self.provider.create_node(self.node, self.tags, 1))
        except RuntimeError:
            return False


@pytest.mark.parametrize("stem", CLOUDS)
def test_after_a_while_without_spot_one_on_demand_is_asked_for(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(stem, 5, monkeypatch)
    assert [case.ask(MINUTE) for _ in range(7)] == [*[False] * 6, True]
    assert not is_spot(case.provider.asked[-1])
    assert set(case.node) - set(case.provider.asked[-1]) <= {"InstanceMarketOptions"}, "all else is the same"


@pytest.mark.parametrize("stem", CLOUDS)
def test_without_the_setting_a_job_waits_for_spot(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(stem, 0, monkeypatch)
    assert not any(case.ask(MINUTE) for _ in range(100))
    assert all(is_spot(asked) for asked in case.provider.asked)


def test_each_wait_for_spot_is_counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("a100", 5, monkeypatch)
    assert not case.ask(0)
    assert not case.ask(120 * MINUTE), "nobody asked meanwhile, so nobody waited"
    assert [case.ask(MINUTE) for _ in range(6)] == [*[False] * 5, True]
    case.provider.has_spot = True
    assert case.ask(MINUTE) and is_spot(case.provider.asked[-1]), "the next is spot again"


def test_a_new_head_comes_with_the_way_to_its_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case("a100", 0, monkeypatch)
    case.tags, case.provider.has_spot = {"ray-node-type": "head"}, True
    assert case.ask(0) and "`ray get-auth-token` prints" in capsys.readouterr().out


@pytest.mark.parametrize("minutes", ["soon", -1])
def test_a_wrong_wait_is_named(minutes: Any) -> None:
    config = prepare("a100")
    config["provider"]["on_demand_after_minutes"] = minutes
    with pytest.raises(launcher.UserError, match="on_demand_after_minutes"):
        launcher.check_settings(config)
