"""What a README tells people to type leaves nothing open."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "infra/monitoring/README.md")
START = "ray start --head"


@pytest.mark.parametrize("name", READMES)
def test_ray_starts_with_a_token_and_for_this_machine(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "(umask 077; ray get-auth-token --generate" in text[: text.index(START)], (
        "Ray would write it for all to read"
    )
    assert "RAY_AUTH_MODE=token" in text[: text.index(START)]
    assert text.count(START) == text.count(f"{START} --node-ip-address=127.0.0.1"), "else it listens to the network"
