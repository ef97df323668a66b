"""What a cloud or an object store refused, by its error code, in one sentence, and what to do about it.

Codes come from botocore (`ExpiredToken`), from Arrow's S3 client (`ACCESS_DENIED`) and from HTTP (403); all are
compared in lower case without `_`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
RIGHTS = "s3:ListBucket on the bucket, s3:GetObject, s3:PutObject and s3:DeleteObject below the folder"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a store or a cloud refused, for people."""

    found: str
    """What is wrong, in a sentence."""
    remedy: str
    """What to do."""


def _refusal(found: str, remedy: str) -> Refusal:
    return Refusal(found=found, remedy=remedy)


EXPIRED = _refusal(
    "the credentials have expired",
    "get new ones (`aws sso login`, or a fresh key, secret and AWS_SESSION_TOKEN); a machine's role renews itself",
)
UNKNOWN_KEY = _refusal("the access key is not known there", f"set {KEYS} (or AWS_PROFILE) to an account that exists")
WRONG_SECRET = _refusal(
    "the secret does not belong to the access key", f"set {KEYS} from the same pair; look for a cut or quoted value"
)
DENIED = _refusal(
    "these credentials are not allowed to do that",
    f"give the identity {RIGHTS}; on a cluster to the machines' role, of head and workers",
)
NO_BUCKET = _refusal(
    "there is no such bucket", "create it, or check its name, AWS_ENDPOINT_URL and the account of the credentials"
)
OTHER_REGION = _refusal("the bucket is in another region", "set AWS_REGION to the bucket's region")
CLOCK = _refusal(
    "this machine's clock is wrong: the store refuses requests that are 15 minutes off",
    "set the clock (`timedatectl set-ntp true`)",
)
BUSY = _refusal("the store is overloaded", "try again; fewer, larger files (`worldmodel games pack`) ask less of it")
FULL = _refusal("the store is full", "delete what is not needed there, or raise its quota")
UNREACHABLE = _refusal(
    "the store cannot be reached", "check AWS_ENDPOINT_URL (with http:// or https://), the network, proxy and firewall"
)
NO_CREDENTIALS = _refusal(
    "there are no credentials",
    f"set {KEYS}, or AWS_PROFILE, or run `aws sso login`; on a cluster give the machines a role",
)
PARTIAL = _refusal("the credentials are incomplete", f"set both {KEYS}")
SIGNED_OUT = _refusal("the single sign-on session has ended", "run `aws sso login`")
PROFILE = _refusal("AWS_PROFILE names a profile that ~/.aws does not have", "check its name, or unset AWS_PROFILE")
NO_ROLE = _refusal(
    "the credentials cannot be fetched", "check the role or credential process that ~/.aws/config or the machine names"
)
BAD_REGION = _refusal("there is no such region", "set AWS_REGION to one such as us-east-1")
BAD_ENDPOINT = _refusal("the store's address cannot be understood", "write AWS_ENDPOINT_URL as https://HOST[:PORT]")
LAUNCH_RIGHTS = _refusal(
    "these credentials may not start machines",
    "give the identity that runs `ray up`, and the head's role, those rights",
)
SPOT_ROLE = _refusal(
    "the account has no service-linked role for spot machines, and the head may not make it",
    "make it once, as somebody who may: aws iam create-service-linked-role --aws-service-name spot.amazonaws.com",
)
QUOTA = _refusal(
    "the account's quota does not allow that many machines of the kind",
    "ask the cloud for a higher quota (AWS: Service Quotas, vCPUs of P instances, spot counted apart), or lower "
    "max_workers or take a smaller machine type",
)
NO_CAPACITY = _refusal(
    "the cloud has no such machine free now", "wait, or choose another zone, region or machine type, or not spot"
)
NO_TYPE = _refusal(
    "the cloud does not have that machine type or image in the region", "check machine type, image and region"
)
NOT_ENABLED = _refusal("the account has not enabled that service or region", "enable it in the cloud's console")
LASTING = (EXPIRED, LAUNCH_RIGHTS, NO_TYPE, NOT_ENABLED, QUOTA, SPOT_ROLE, UNKNOWN_KEY)
"""Refusals of a machine that no waiting heals."""

BY_CODE: dict[str, Refusal] = {
    **dict.fromkeys(
        ("expiredtoken", "expiredtokenexception", "requestexpired", "tokenrefreshrequired", "credentialsexpired"),
        EXPIRED,
    ),
    **dict.fromkeys(
        ("invalidaccesskeyid", "invalidclienttokenid", "unrecognizedclient", "unrecognizedclientexception",
         "invalidtoken", "authfailure"), UNKNOWN_KEY,
    ),
    **dict.fromkeys(("signaturedoesnotmatch", "invalidsignature", "invalidsignatureexception"), WRONG_SECRET),
    **dict.fromkeys(
        ("accessdenied", "accessdeniedexception", "allaccessdisabled", "accountproblem", "invalidpayer", "forbidden",
         "permissiondenied", "403"), DENIED,
    ),
    **dict.fromkeys(("nosuchbucket", "404", "notfound"), NO_BUCKET),
    **dict.fromkeys(
        ("permanentredirect", "temporaryredirect", "authorizationheadermalformed", "movedpermanently",
         "illegallocationconstraintexception", "301", "307"), OTHER_REGION,
    ),
    **dict.fromkeys(("requesttimetooskewed", "requestinthefuture"), CLOCK),
    **dict.fromkeys(("slowdown", "serviceunavailable", "throttling", "toomanyrequests", "503", "429"), BUSY),
    **dict.fromkeys(("insufficientstorage", "quotaexceeded", "xminiostoragefull", "entitytoolarge", "507"), FULL),
    **dict.fromkeys(("networkconnection", "unavailable", "requesttimeout"), UNREACHABLE),
    "authfailure.servicelinkedrolecreationnotpermitted": SPOT_ROLE,
    **dict.fromkeys(("unauthorizedoperation", "authorizationfailed"), LAUNCH_RIGHTS),
    **dict.fromkeys(
        ("vcpulimitexceeded", "instancelimitexceeded", "maxspotinstancecountexceeded", "limitexceeded",
         "quotaexceededexception", "operationnotallowed"), QUOTA,
    ),
    **dict.fromkeys(
        ("insufficientinstancecapacity", "zoneresourcepoolexhausted", "skunotavailable", "allocationfailed",
         "insufficienthostcapacity"), NO_CAPACITY,
    ),
    **dict.fromkeys(
        ("invalidamiid.notfound", "invalidinstancetype", "invalidparametervalue", "unsupported"), NO_TYPE,
    ),
    **dict.fromkeys(("optinrequired", "servicedisabled"), NOT_ENABLED),
}  # fmt: skip
"""Error code, in lower case without `_`, to what it means."""
BY_EXCEPTION: dict[str, Refusal] = {
    "NoCredentialsError": NO_CREDENTIALS,
    "PartialCredentialsError": PARTIAL,
    "CredentialRetrievalError": NO_ROLE,
    "MetadataRetrievalError": NO_ROLE,
    "ProfileNotFound": PROFILE,
    "ConfigParseError": PROFILE,
    "InvalidRegionError": BAD_REGION,
    **dict.fromkeys(
        ("SSOTokenLoadError", "UnauthorizedSSOTokenError", "TokenRetrievalError", "SSOError", "LoginRefreshRequired"),
        SIGNED_OUT,
    ),
    **dict.fromkeys(
        ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "SSLError",
         "ProxyConnectionError", "HTTPClientError"), UNREACHABLE,
    ),
}  # fmt: skip
"""Name of a botocore exception to what it means."""
_ARROW = re.compile(r"AWS Error (\w+)")
_NAMED = re.compile(r"ExceptionName: (\w+)|HTTP status (\d{3})|HTTP response code:? (\d{3})")
_WORD = re.compile(r"[A-Za-z][\w.]*[A-Za-z]")


def explain_refusal(error: BaseException | str) -> Refusal | None:
    """What an error of botocore, Arrow or a launcher means; None: it is none that is known here."""
    if isinstance(error, str):
        return _explain_text(error)
    response: dict[str, Any] = getattr(error, "response", None) or {}
    by_code = _look_up(str(response.get("Error", {}).get("Code", "")))
    if by_code is not None:
        return by_code
    for kind in type(error).__mro__:
        if kind.__name__ in BY_EXCEPTION:
            return BY_EXCEPTION[kind.__name__]
    text = str(error)
    return BAD_ENDPOINT if text.startswith("Invalid endpoint") else _explain_text(text)


def _look_up(code: str) -> Refusal | None:
    return BY_CODE.get(code.replace("_", "").lower())


def _explain_text(text: str) -> Refusal | None:
    """By what a message names: its exception, the client's own name of it, an HTTP status, any word that is a code."""
    named = [group for match in _NAMED.finditer(text) for group in match.groups() if group]
    codes = [*named, *_ARROW.findall(text), *_WORD.findall(text)]
    found = (_look_up(code) for code in codes if not code.islower())
    return next((refusal for refusal in found if refusal is not None), None)


def read_region(error: BaseException) -> str:
    """The bucket's region, where a refusal names it."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region") or response.get("Error", {}).get("Region") or "")
