"""The note of a cloud's notice: read as it is written, and nothing where it cannot be understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldmodel.machine.notice import FILE, Notice, read_notice


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"reason": "spot", "deadline": 12.5, "cloud": "aws"}', Notice(reason="spot", deadline=12.5)),
        (None, None), ("", None), ("[]", None), ('{"reason": "spot"}', None),
        ('{"reason": "a", "deadline": "x"}', None),
    ],
)  # fmt: skip
def test_a_notice_is_read_or_there_is_none(
    text: str | None, found: Notice | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FILE, str(tmp_path / "notice.json"))
    if text is not None:
        (tmp_path / "notice.json").write_text(text)
    assert read_notice() == found
