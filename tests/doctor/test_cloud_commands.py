"""Services and quota of Google Cloud and Azure, by what fake command lines answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worldmodel.doctor.check import Check, Outcome
from worldmodel.doctor.cloud_commands import APIS, LIMITS, NAMESPACES, SERVICES, examine_azure, examine_google

GPU = {
    "resources": {"CPU": 12, "GPU": 1, "accelerator_type:A100": 1}, "max_workers": 8,
    "node_config": {"scheduling": {"provisioningModel": "SPOT"}},
}  # fmt: skip
GOOGLE = {
    "provider": {"type": "gcp", "project_id": "proj", "region": "us-central1"},
    "available_node_types": {"head": {"resources": {"CPU": 0}, "max_workers": 0}, "a100": GPU},
}
AZURE = {
    "provider": {"type": "azure", "subscription_id": "sub", "location": "eastus"},
    "available_node_types": {
        "a100": {"resources": {"CPU": 24, "GPU": 1}, "max_workers": 8,
                 "node_config": {"azure_arm_parameters": {"priority": "Spot"}}},
    },
}  # fmt: skip


def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, answers: dict[str, str]) -> None:
    """Put a command line on the PATH that answers by a word of what it is asked, and refuses the rest."""
    cases = "".join(f'*"{word}"*) printf "%s" \'{text}\';;\n' for word, text in answers.items())
    script = f'#!/bin/sh\ncase "$*" in\n{cases}*) echo "ERROR: (tool) not authorized" >&2; exit 1;;\nesac\n'
    (tmp_path / tool).write_text(script)
    (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def by_name(checks: Any) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_missing_api_is_named_with_the_command_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(tmp_path, monkeypatch, "gcloud", {"services list": "\n".join(APIS[1:])})
    check = by_name(examine_google(GOOGLE))[SERVICES]
    assert check.is_failed and "cloudresourcemanager.googleapis.com not enabled" in check.found
    assert check.remedy == f"gcloud services enable {' '.join(APIS)} --project proj"
    answer(tmp_path, monkeypatch, "gcloud", {"services list": "\n".join(APIS)})
    assert by_name(examine_google(GOOGLE))[SERVICES].outcome is Outcome.OK


@pytest.mark.parametrize(("limit", "outcome"), [(0, Outcome.FAILED), (3, Outcome.WARNING), (8, Outcome.OK)])
def test_googles_quota_of_spot_gpus(
    limit: int, outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quotas = [{"metric": "PREEMPTIBLE_NVIDIA_A100_GPUS", "limit": limit}, {"metric": "NVIDIA_A100_GPUS", "limit": 99}]
    answer(tmp_path, monkeypatch, "gcloud", {"regions describe us-central1": json.dumps({"quotas": quotas})})
    check = by_name(examine_google(GOOGLE))[LIMITS]
    assert check.outcome is outcome and f"{limit} allowed" in check.found
    assert outcome is Outcome.OK or "to 8 at https://console.cloud.google.com" in check.remedy


def test_what_cannot_be_asked_is_told_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for checks, command in ((examine_google(GOOGLE), "gcloud services enable"), (examine_azure(AZURE), "az provider")):
        found = by_name(checks)
        assert {check.outcome for check in found.values()} == {Outcome.SKIPPED}
        assert "is not installed" in found[SERVICES].found and command in found[SERVICES].found
        assert "https://" in found[LIMITS].found
    answer(tmp_path, monkeypatch, "gcloud", {})
    assert "not authorized" in by_name(examine_google(GOOGLE))[SERVICES].found


def test_azures_missing_providers_and_spot_cores_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"provider list": "\n".join(NAMESPACES[1:]), "list-usage": "10"}
    answer(tmp_path, monkeypatch, "az", answers)
    found = by_name(examine_azure(AZURE))
    assert found[SERVICES].remedy == "az provider register --namespace Microsoft.Compute --subscription sub"
    assert found[LIMITS].is_failed and "to 192 at https://portal.azure.com" in found[LIMITS].remedy
    answer(tmp_path, monkeypatch, "az", {"provider list": "\n".join(NAMESPACES), "list-usage": "192"})
    assert {check.outcome for check in examine_azure(AZURE)} == {Outcome.OK}
    vault = {**AZURE, "metadata": {"key_vault": "keys"}}
    assert "Microsoft.KeyVault" in by_name(examine_azure(vault))[SERVICES].found


def test_the_shipped_files_name_what_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quota that the shipped YAMLs need is read from them, so their form must be the one that is understood."""
    from worldmodel.doctor.cluster_files import read_documents

    folder = Path(__file__).parents[2] / "cluster"
    answer(tmp_path, monkeypatch, "gcloud", {"regions describe": json.dumps({"quotas": []})})
    answer(tmp_path, monkeypatch, "az", {"list-usage": "0"})
    google = [c for c in examine_google(read_documents(folder / "a100-gcp.yaml")[0]) if c.name == LIMITS]
    azure = [c for c in examine_azure(read_documents(folder / "a100-azure.yaml")[0]) if c.name == LIMITS]
    assert any("PREEMPTIBLE_NVIDIA_A100_GPUS" in check.found for check in google)
    assert azure and all(check.is_failed for check in [*google, *azure])
