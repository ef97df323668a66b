"""Keys from the secret store of the cloud in which this machine stands, read as the machine's own identity.

AWS: Systems Manager, the parameter `/worldmodel/NAME` (a SecureString). Google: Secret Manager, the secret
`worldmodel-NAME`. Azure: a Key Vault's secret `worldmodel-NAME`, with `-` for `_`, as its names must be.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from worldmodel.machine.launcher import name_cloud

SECONDS = 10
"""Time that an answer may take."""
GOOGLE = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
AZURE = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net"
"""Where a machine gets a token for its own identity."""


class SecretError(Exception):
    """A key that cannot be had; the message says why, and what would give it."""


def read_secret(name: str, provider: Mapping[str, Any], key_vault: str = "") -> str:
    """The value of a key. SecretError where there is no store, no such key, or no right to read it."""
    kind = name_cloud(provider)
    if kind == "aws":
        return _read_aws(f"/worldmodel/{name}", str(provider["region"]))
    if kind == "gcp":
        return _read_google(f"worldmodel-{name}", str(provider["project_id"]))
    if kind == "azure" and key_vault:
        return _read_azure(f"worldmodel-{name.replace('_', '-')}", key_vault)
    raise SecretError("not set, and there is no secret store to ask: export it where the head's shells start")


def _read_aws(name: str, region: str) -> str:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    waits = Config(connect_timeout=SECONDS, read_timeout=SECONDS, retries={"total_max_attempts": 2})
    try:
        found = boto3.client("ssm", region_name=region, config=waits).get_parameter(Name=name, WithDecryption=True)
    except (BotoCoreError, ClientError) as error:
        raise SecretError(
            f"{error}; to give it: aws ssm put-parameter --type SecureString --name {name} --value ..."
        ) from error
    return str(found["Parameter"]["Value"])


def _read_google(name: str, project: str) -> str:
    token = _fetch(GOOGLE, {"Metadata-Flavor": "Google"})["access_token"]
    url = f"https://secretmanager.googleapis.com/v1/projects/{project}/secrets/{name}/versions/latest:access"
    try:
        found = _fetch(url, {"Authorization": f"Bearer {token}"})
    except SecretError as error:
        raise SecretError(f"{error}; to give it: gcloud secrets create {name} --data-file=-") from error
    return base64.b64decode(found["payload"]["data"]).decode().strip()


def _read_azure(name: str, vault: str) -> str:
    token = _fetch(AZURE, {"Metadata": "true"})["access_token"]
    url = f"https://{vault}.vault.azure.net/secrets/{name}?api-version=7.4"
    try:
        found = _fetch(url, {"Authorization": f"Bearer {token}"})
    except SecretError as error:
        raise SecretError(f"{error}; to give it: az keyvault secret set --vault-name {vault} --name {name}") from error
    return str(found["value"])


def _fetch(url: str, headers: dict[str, str]) -> dict[str, Any]:
    """A JSON object from a URL. The headers hold a token, so no message shows them."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=SECONDS) as answer:
            return dict(json.load(answer))
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise SecretError(f"{url.split('?')[0]}: {error}") from error
