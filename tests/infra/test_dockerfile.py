"""The image's Dockerfile: it takes versions from constraints.txt alone, copies what a job needs and nothing else.

No image was built here: neither a Docker daemon nor the base images are at hand. What its steps install is checked by
name, and the files by what would reach them.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import PurePath

import pytest

from tests.infra.toolbox import ROOT, find_tool

FOLDER = ROOT / "infra/docker"
TEXT = (FOLDER / "Dockerfile").read_text()
STEPS = re.sub(r"\\\n\s*", " ", "\n".join(line for line in TEXT.splitlines() if not line.startswith("#"))).splitlines()
COPIED = [
    place for line in STEPS if line.startswith("COPY") for place in line.split()[1:-1] if not place.startswith("--")
]


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins() -> set[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {normalize(line.split("==")[0]) for line in lines if "==" in line}


def list_installs() -> list[list[str]]:
    """The words of each `pip install` and `pip wheel`."""
    commands = [command for line in STEPS if line.startswith("RUN") for command in re.split(r"&&|;", line)]
    return [command.split() for command in commands if re.search(r"\bpip (install|wheel)\b", command)]


def test_every_installation_is_held_by_the_constraints() -> None:
    installs = list_installs()
    assert len(installs) >= 5
    assert [
        words for words in installs if words[words.index("--constraint") :][:2] != ["--constraint", "constraints.txt"]
    ] == []


def test_no_version_of_a_package_stands_in_the_dockerfile() -> None:
    assert re.findall(r"[\w-]+[=~<>]=\s*\d[\w.]*", TEXT.replace("!= here", "")) == []


def test_every_package_that_is_named_has_a_version_in_the_constraints() -> None:
    options = {"--constraint", "--index-url", "--requirement", "--wheel-dir"}
    named: set[str] = set()
    for words in list_installs():
        given = words[words.index("pip") + 2 :]
        values = {given[n + 1] for n, word in enumerate(given[:-1]) if word in options}
        plain = {word for word in given if re.fullmatch(r"[a-z][\w-]*", word)} - values
        named |= plain
    assert {"torch", "mamba-ssm", "causal-conv1d"} <= named
    assert named - read_pins() == set()


def test_every_package_that_the_project_asks_for_has_a_version_in_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [re.split(r"[\[<>=!~ ;]", line, maxsplit=1)[0] for line in project["dependencies"]]
    asked += [name for name in project["optional-dependencies"]["gpu"] if name != "triton"]  # torch names its triton
    assert {normalize(name) for name in asked} - read_pins() == set()


def reaches(path: str) -> bool:
    """Whether .dockerignore lets a path into the build: the last rule that matches it decides."""
    is_left_out = False
    for rule in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines():
        if not rule or rule.startswith("#"):
            continue
        pattern, says = rule.removeprefix("!"), not rule.startswith("!")
        parts = PurePath(path).parts
        heads = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if any(re.fullmatch(_translate(pattern), head) for head in heads):
            is_left_out = says
    return not is_left_out


def _translate(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")


def test_all_that_is_copied_is_there_and_reaches_the_build() -> None:
    assert {place for place in COPIED if not (ROOT / place).exists()} == set()
    assert {place for place in COPIED if not reaches(place)} == set()
    assert reaches("worldmodel/cli/main.py") and reaches("tune/experiments/1a.yaml")


@pytest.mark.parametrize(
    "path",
    ["runs/a/checkpoints/x", "data/games/x", "games.tar", ".venv/bin/python", ".git/config", ".netrc",
     "key.pem", "tests/conftest.py", "worldmodel/__pycache__/x.pyc", "cluster/.env", "infra/terraform/x.tfstate"],
)  # fmt: skip
def test_no_data_no_history_and_no_key_reaches_the_build(path: str) -> None:
    assert not reaches(path)


def test_what_a_job_reads_beside_the_code_is_in_the_image() -> None:
    """The launcher's YAMLs copy the same files to machines without an image."""
    mounted = re.findall(r"~/worldmodel/(\S+): \./", (ROOT / "cluster/a100.yaml").read_text())
    assert set(mounted) == set(COPIED)


def test_the_image_runs_as_the_user_that_kubernetes_asks_for() -> None:
    users = re.findall(r"^USER (\d+)", TEXT, re.MULTILINE)
    manifests = "".join(path.read_text() for path in (ROOT / "cluster/kuberay").glob("*.yaml"))
    assert users == ["1000"] and set(re.findall(r"runAsUser: (\d+)", manifests)) <= set(users)


def test_every_base_image_can_be_named_by_its_digest() -> None:
    """A tag may be moved; a digest names one image. `--build-arg` gives it, as digests go out of date."""
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", TEXT, re.MULTILINE))
    bases = {
        name for name in re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE) if name.split("-")[0] not in ("base", "wheels")
    }
    assert bases and not bases & stages
    for base in bases:
        argument = re.fullmatch(r"\$\{(\w+)\}", base)
        assert argument and re.search(rf"^ARG {argument[1]}=\S+:\S+$", TEXT.split("\nFROM ")[0], re.MULTILINE), base


@pytest.mark.parametrize("word", ["cuda", "cpu"])
def test_both_devices_have_their_stages(word: str) -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", TEXT, re.MULTILINE))
    assert {f"base-{word}", f"wheels-{word}"} <= stages


@pytest.mark.slow
def test_hadolint_and_checkov_find_nothing_that_is_not_named_with_its_reason() -> None:
    ended = subprocess.run([find_tool("hadolint"), FOLDER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    ended = subprocess.run(
        [find_tool("checkov"), "--file", FOLDER / "Dockerfile", "--framework", "dockerfile", "--skip-download",
         "--output", "json"],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    found = json.loads(ended.stdout)
    assert [check["check_id"] for check in found["results"]["failed_checks"]] == []
    assert found["summary"]["passed"] > 100 and found["summary"]["parsing_errors"] == 0
