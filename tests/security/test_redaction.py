"""No secret that the environment or an address holds is left in a text."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldmodel.errors import UserError
from worldmodel.object_store import explain_failure
from worldmodel.redaction import hide_secrets
from worldmodel.storage import Location

SECRET = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "WANDB_API_KEY", "RAY_AUTH_TOKEN", "AZURE_STORAGE_KEY",
             "AZURE_STORAGE_CONNECTION_STRING", "HF_TOKEN", "DATABASE_PASSWORD"],
)  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(before=st.text(max_size=30), after=st.text(max_size=30))
def test_a_value_of_the_environment_is_cut_out_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, name: str, before: str, after: str
) -> None:
    monkeypatch.setenv(name, SECRET)
    found = hide_secrets(f"{before}{SECRET}{after}{SECRET}")
    assert SECRET not in found


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"https://user:{SECRET}@host/a?b=1", "host/a?b=1"),
        (f"http://{SECRET}@proxy:8080", "proxy:8080"),
        (f"GET /b?X-Amz-Credential=id&X-Amz-Signature={SECRET}&x=1 failed", "&x=1 failed"),
        (f"https://b.blob.core.windows.net/c?sv=1&sig={SECRET}", "sv=1"),
        (f"Authorization: Bearer {SECRET}", "Authorization"),
    ],
)
def test_what_an_address_or_a_header_holds_is_cut_out_and_the_rest_stays(text: str, kept: str) -> None:
    found = hide_secrets(text)
    assert SECRET not in found and kept in found and "***" in found


@pytest.mark.parametrize(
    "text",
    [
        "cannot read s3://bucket/key: timed out; check the network", "mail to a@b.example", "val_metric/key=0.5 of 12",
        "Token is a word, key too", "python tune/round1.py --data s3://bucket/games --seeds 3",
    ],
)  # fmt: skip
def test_what_holds_no_secret_stays_as_it_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "check the network")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "s3://bucket/games")
    monkeypatch.setenv("SOME_TOKEN", "key")
    assert hide_secrets(text).replace("key=***", "key=0.5") == text


def test_a_failure_of_a_store_is_told_without_the_secret_in_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(UserError) as caught, explain_failure("s3://b/c", "read"):
        raise OSError(f"http://id:{SECRET}@proxy refused {SECRET}")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_an_address_with_credentials_is_refused_without_repeating_them(scheme: str) -> None:
    with pytest.raises(UserError, match="holds no credentials; set AWS_ACCESS_KEY_ID") as caught:
        Location.of(f"{scheme}://AKIAEXAMPLE:{SECRET}@bucket/games")
    assert SECRET not in str(caught.value) and "bucket" in str(caught.value)
