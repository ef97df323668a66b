"""Secrets are cut out of what a run writes down or says: the values that its environment holds, and those in addresses.

Nothing of ours puts a secret into a message; a library's error may repeat an address, a header or a setting.
"""

from __future__ import annotations

import os
import re

HIDDEN = "***"
_NAMES = re.compile(
    r"SECRET|TOKEN|PASSWORD|PASSWD|API_?KEY|ACCOUNT_KEY|STORAGE_KEY|CONNECTION_STRING|_PAT$", re.IGNORECASE
)
"""Names of environment variables whose values are secrets."""
_PLACES = re.compile(r"(FILE|PATH|DIR|URI|URL|HOST|ARN|PARALLELISM|MODE)$", re.IGNORECASE)
"""Ends of names whose values say where a secret lies, or how it is used."""
_LEAST_LENGTH = 8
"""Shorter values are words that stand elsewhere too."""
_IN_ADDRESS = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@'\"]+@")
_IN_QUERY = re.compile(
    r"(?P<name>\b(?:X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token|Signature|sig|access_token|token|api_key|key)=)"
    r"[^&\s'\"]+",
    re.IGNORECASE,
)
_CONTROLS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_IN_HEADER = re.compile(r"(?P<name>\b(?:Bearer|Basic) )[A-Za-z0-9._~+/=-]{8,}")


def hide_secrets(text: str) -> str:
    """The text with every secret replaced by three stars."""
    for secret in list_secrets():
        text = text.replace(secret, HIDDEN)
    text = _IN_ADDRESS.sub(rf"\g<scheme>{HIDDEN}@", text)
    return _IN_HEADER.sub(rf"\g<name>{HIDDEN}", _IN_QUERY.sub(rf"\g<name>{HIDDEN}", text))


def strip_controls(text: str) -> str:
    """The text without what would steer a terminal: escape sequences and control characters but newline and tab."""
    return _CONTROLS.sub("", text)


def list_secrets() -> list[str]:
    """The secrets in this process's environment, longest first, so that none is left in part."""
    found = {value for name, value in os.environ.items() if _is_secret(name) and len(value) >= _LEAST_LENGTH}
    return sorted(found, key=len, reverse=True)


def _is_secret(name: str) -> bool:
    return bool(_NAMES.search(name)) and not _PLACES.search(name)
