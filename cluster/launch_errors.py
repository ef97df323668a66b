"""What a cloud says when it starts no machine, in one sentence, and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a cloud refused."""

    marks: tuple[str, ...]
    """Texts of the clouds' own messages, any of which tells it."""
    found: str
    remedy: str


REFUSALS = (
    Refusal(
        marks=("NoCredentialsError", "Unable to locate credentials", "DefaultCredentialsError",
               "default credentials were not found", "Please run 'az login'", "CredentialUnavailableError"),
        found="this laptop has no credentials for the cloud",
        remedy="log in: `aws configure sso` or `aws configure`; `gcloud auth application-default login`; `az login`",
    ),
    Refusal(
        marks=("ExpiredToken", "RequestExpired", "TokenRefreshRequired", "SSOTokenLoadError",
               "UnauthorizedSSOTokenError", "RefreshError", "Reauthentication is needed", "AADSTS70043",
               "AADSTS700082"),
        found="the credentials have expired",
        remedy="log in again: `aws sso login`; `gcloud auth application-default login`; `az login`",
    ),
    Refusal(  # its code begins with AuthFailure, so it comes before that
        marks=("ServiceLinkedRoleCreationNotPermitted",),
        found="the account has no service-linked role for spot machines, and these credentials may not make it",
        remedy="make it once, as somebody who may: `aws iam create-service-linked-role --aws-service-name "
        "spot.amazonaws.com`",
    ),
    Refusal(
        marks=("PendingVerification",),
        found="AWS still verifies this account in this region",
        remedy="wait for the mail from AWS (minutes to four hours) and start again, or use another region",
    ),
    Refusal(
        marks=("not eligible for Free Tier",),
        found="the account is on AWS's free plan, which has no such machine",
        remedy="change to the paid plan (console: Billing, 'Upgrade plan'), then ask for the quota",
    ),
    Refusal(  # with a 403, so it comes before missing rights
        marks=("SERVICE_DISABLED", "accessNotConfigured", "has not been used in project"),
        found="an interface of Google Cloud that is needed is off in this project",
        remedy="`gcloud services enable cloudresourcemanager.googleapis.com compute.googleapis.com iam.googleapis.com "
        "secretmanager.googleapis.com --project PROJECT`, then wait a minute",
    ),
    Refusal(
        marks=("AuthFailure", "InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException",
               "invalid_grant", "InvalidAuthenticationToken"),
        found="the cloud does not know these credentials",
        remedy="check AWS_PROFILE or the keys; `aws sts get-caller-identity`, `gcloud auth list` or `az account show` "
        "says who you are",
    ),
    Refusal(
        marks=("VcpuLimitExceeded", "MaxSpotInstanceCountExceeded", "QuotaExceeded", "QUOTA_EXCEEDED",
               "GPUS_ALL_REGIONS", "OperationNotAllowed", "exceeding approved", "Quota '"),
        found="your quota for such machines is too small in this region",
        remedy="ask the cloud to raise it (AWS: Service Quotas, 'All P4, P3 and P2 Spot Instance Requests', 96 vCPUs "
        "for one p4d; Google: preemptible A100 GPUs; Azure: NCADS_A100_v4 cores and 'Total Regional Spot vCPUs'), or "
        "lower max_workers, or choose another region",
    ),
    Refusal(
        marks=("InsufficientInstanceCapacity", "ZONE_RESOURCE_POOL_EXHAUSTED", "SkuNotAvailable", "AllocationFailed",
               "SpotMaxPriceTooLow", "OverconstrainedAllocationRequest"),
        found="the cloud has no such machine free there now",
        remedy="set on_demand_after_minutes in the YAML, name more availability zones or another region, use the "
        "cheaper GPU type, or try again later",
    ),
    Refusal(
        marks=("Invalid IAM Instance Profile", "InvalidIamInstanceProfile", "Invalid value for field "
               "'resource.serviceAccounts", "was not found. (resource type: serviceAccount", "invalidServiceAccount"),
        found="an identity that the YAML names does not exist",
        remedy="make worldmodel-head and worldmodel-worker first: infra/README.md",
    ),
    Refusal(
        marks=("UnauthorizedOperation", "AccessDenied", "is not authorized to perform", "AuthorizationFailed",
               "Required 'compute.", "iam.serviceAccounts.create", "PERMISSION_DENIED"),
        found="these credentials may not do that",
        remedy="log in as somebody who may start machines and pass on the identities worldmodel-head and "
        "worldmodel-worker",
    ),
    Refusal(
        marks=("Could not connect to the endpoint URL", "EndpointConnectionError", "Invalid endpoint",
               "Invalid value for field 'region'", "Unknown zone", "LocationNotAvailableForResourceType",
               "InvalidParameterValue) when calling the DescribeAvailabilityZones", "No usable subnets"),
        found="the region or zone is wrong, or has no network for you",
        remedy="check provider.region and provider.availability_zone in the YAML, and that your account has a default "
        "network there",
    ),
    Refusal(
        marks=("InvalidAMIID", "InvalidParameterValue) when calling the RunInstances operation: Invalid parameter: ssm",
               "The resource 'projects/ubuntu-os", "PlatformImageNotFound"),
        found="the machine image does not exist there",
        remedy="name another image in the YAML (ImageId, sourceImage, imageSku), of Ubuntu 24.04 or newer",
    ),
)  # fmt: skip


BROKEN = ("SSH command failed", "Setup command failed", "Start command failed", "Failed to setup head node")
"""What the launcher says when a machine is there and something on it fails."""
STEPS = (
    ("Waiting for SSH", "the machine is there, but SSH does not let us in",
     "check auth.ssh_user and auth.ssh_private_key, and that port 22 is open on your network"),
    ("Processing file mounts", "the machine is there, but the code could not be copied to it",
     "see the message above: rsync must be there, and the disk must have room"),
    ("Running setup commands", "a machine was started, but its set-up failed",
     "see the set-up's own message above"),
    ("Starting the Ray runtime", "a machine is set up, but Ray did not start there",
     "see the message above; `ray attach` opens a shell there"),
)  # fmt: skip
"""How the launcher announces each of its steps on a machine, what it means that the step fails, and what to do."""


def explain(output: str) -> str:
    """What went wrong and what to do, from what the launcher printed; empty: not known."""
    if any(mark in output for mark in BROKEN):  # the cloud has done its part
        last, found, remedy = max(STEPS, key=lambda step: output.rfind(step[0]))
        words = re.findall(r"\berror: (.+)", output[output.rfind(last) :])  # of our own scripts
        return f"{found}: {words[-1] if words else remedy}" if last in output else ""
    for refusal in REFUSALS:
        if any(mark in output for mark in refusal.marks):
            return f"{refusal.found}: {refusal.remedy}"
    return ""
