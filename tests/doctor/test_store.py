"""Every way in which a store can refuse becomes one sentence, and what to do: against real servers that refuse so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError, SSOTokenLoadError

from tests.s3_server import serve_s3, use_s3
from worldmodel.doctor import store
from worldmodel.doctor.check import Check, Outcome
from worldmodel.doctor.store import ACCOUNT, REGION, STORE, examine_storage
from worldmodel.doctor.store_errors import explain_refusal
from worldmodel.storage import Location

SETTINGS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION")


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which nobody has logged in, and which no cloud knows."""
    for name in (*SETTINGS, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve_s3() as url:
        yield url


@contextmanager
def serve_refusal(status: int, code: str, headers: dict[str, str] | None = None) -> Iterator[str]:
    """The address of a server that refuses everything in S3's words."""

    class Refuser(BaseHTTPRequestHandler):
        def refuse(self) -> None:
            body = f"<Error><Code>{code}</Code><Message>told by the test</Message></Error>".encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = refuse

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuser)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def by_name(place: str, region: str = "") -> dict[str, Check]:
    return {check.name: check for check in examine_storage(place, region)}


def test_a_store_is_written_read_and_left_without_a_file(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_s3(monkeypatch, endpoint)
    place = Location.of("s3://games/looked-at")  # other tests use the same bucket
    found = by_name(f"{place}/runs")
    assert found[ACCOUNT].outcome is found[STORE].outcome is Outcome.OK
    assert "credentials from env" in found[ACCOUNT].found
    assert f"endpoint {endpoint}, region us-east-1" in found[STORE].found
    assert not [entry for entry in place.list_entries(recursive=True) if not entry.is_folder]


def test_a_folder_is_written_read_and_left_as_it_was(tmp_path: Path) -> None:
    assert by_name(str(tmp_path / "new" / "runs"))[STORE].outcome is Outcome.OK
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_way_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    check = by_name(str(tmp_path / "runs"))[STORE]
    assert check.is_failed and "cannot be written" in check.found


def test_a_store_that_returns_other_bytes_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Location, "read_bytes", lambda self: b"other")
    assert "returned other bytes" in by_name(str(tmp_path))[STORE].found


@pytest.mark.parametrize(
    ("status", "code", "found", "remedy"),
    [
        (400, "ExpiredToken", "have expired", "aws sso login"),
        (403, "InvalidAccessKeyId", "not known there", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "does not belong to the access key", "same pair"),
        (403, "AccessDenied", "not allowed to do that", "s3:PutObject"),
        (404, "NoSuchBucket", "no such bucket", "create it"),
        (403, "RequestTimeTooSkewed", "clock is wrong", "set-ntp"),
        (503, "SlowDown", "overloaded", "try again"),
        (507, "InsufficientStorage", "store is full", "delete"),
    ],
)
def test_what_a_store_refuses_is_told_in_a_sentence(
    status: int, code: str, found: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_refusal(status, code) as url:
        use_s3(monkeypatch, url)
        checks = by_name("s3://bucket/runs")
    assert list(checks) == [ACCOUNT]
    assert checks[ACCOUNT].is_failed
    assert found in checks[ACCOUNT].found and url in checks[ACCOUNT].found and remedy in checks[ACCOUNT].remedy


def test_a_bucket_elsewhere_names_its_region(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_refusal(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}) as url:
        use_s3(monkeypatch, url)
        check = by_name("s3://bucket/runs")[ACCOUNT]
    assert check.is_failed
    assert "another region, eu-west-1; AWS_REGION is us-east-1" in check.found
    assert check.remedy == "set AWS_REGION=eu-west-1"


def test_regions_that_differ_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(region: str | None, machines: str, endpoint: str | None = None) -> Outcome:
        (check,) = store.compare_regions("bucket", "eu-west-1", (endpoint, region), machines)
        assert check.name == REGION
        return check.outcome

    assert compare("us-east-1", "") is Outcome.FAILED
    assert compare(None, "us-east-1") is Outcome.WARNING
    assert compare("eu-west-1", "eu-west-1") is compare(None, "") is Outcome.OK
    assert compare("auto", "", "https://store.example") is Outcome.OK


def test_without_credentials_that_is_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    check = by_name("s3://bucket/runs")[ACCOUNT]
    assert check.is_failed and "there are no credentials" in check.found and "AWS_PROFILE" in check.remedy
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "alone")
    assert "incomplete" in by_name("s3://bucket/runs")[ACCOUNT].found
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "names a profile" in by_name("s3://bucket/runs")[ACCOUNT].found


@pytest.mark.parametrize(
    ("url", "found"), [("http://127.0.0.1:9", "cannot be reached"), ("seaweed:8333", "address cannot be understood")]
)
def test_a_store_that_does_not_answer_is_told(url: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_s3(monkeypatch, url)
    check = by_name("s3://bucket/runs")[ACCOUNT]
    assert check.is_failed and found in check.found and "AWS_ENDPOINT_URL" in check.remedy


def test_a_right_to_read_alone_is_found_by_writing(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_s3(monkeypatch, endpoint)
    denied = OSError("When uploading part: AWS Error ACCESS_DENIED during PutObject operation: Access Denied")

    def refuse(self: Location, content: bytes) -> None:
        raise store.StorageError(f"cannot write {self}") from denied

    monkeypatch.setattr(Location, "write_bytes", refuse)
    check = by_name("s3://games/runs")[STORE]
    assert check.is_failed
    assert "cannot be written" in check.found and "not allowed" in check.found and "s3:PutObject" in check.remedy


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("AWS Error ACCESS_DENIED during HeadObject operation: No response body.", "not allowed"),
        ("AWS Error UNKNOWN (HTTP status 400): Unable to parse ExceptionName: ExpiredToken Message: x", "expired"),
        ("AWS Error UNKNOWN (HTTP status 301) during HeadBucket operation: No response body.", "another region"),
        ("AWS Error NETWORK_CONNECTION during CreateMultipartUpload operation: curlCode: 7", "cannot be reached"),
        ("a100: An error occurred (VcpuLimitExceeded) when calling the RunInstances operation: You have", "quota"),
        ("a100: An error occurred (UnauthorizedOperation) when calling RunInstances", "may not start machines"),
        (
            "Node Launch Exception (AuthFailure.ServiceLinkedRoleCreationNotPermitted): The provided credentials",
            "no service-linked role",
        ),
        ("ZONE_RESOURCE_POOL_EXHAUSTED: the zone does not have enough resources", "no such machine free"),
        (NoCredentialsError(), "no credentials"),
        (PartialCredentialsError(provider="env", cred_var="x"), "incomplete"),
        (SSOTokenLoadError(error_msg="x"), "single sign-on"),
        (ClientError({"Error": {"Code": "OptInRequired", "Message": "x"}}, "RunInstances"), "not enabled"),
    ],
)
def test_errors_of_every_library_are_known(error: BaseException | str, words: str) -> None:
    refusal = explain_refusal(error)
    assert refusal is not None and words in refusal.found and refusal.remedy


def test_an_error_that_is_not_known_is_passed_on_as_it_is() -> None:
    assert explain_refusal("something access denied nobody has seen") is None
    assert explain_refusal(ValueError("odd")) is None
