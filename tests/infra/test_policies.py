"""What the head and the workers may do: the policies as Terraform makes them, asked as the clouds would ask them.

AWS: a simulator that knows each action's resources and condition keys. Google: the conditions, evaluated as CEL. Azure:
the condition over folders, evaluated here; its grammar is small. None of this has been asked of a cloud.
"""

from __future__ import annotations

import json
import re
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from tests.infra.toolbox import Request, evaluate_module, find_tool, simulate

pytestmark = pytest.mark.slow
ACCOUNT = "123456789012"
OWN = f"arn:aws:ec2:us-west-2:{ACCOUNT}"
INSTANCE = f"{OWN}:instance/i-0123456789abcdef0"
BUCKET = "arn:aws:s3:::ours"
TAGGED = {"aws:ResourceTag/worldmodel": "cluster"}
STARTS = {"aws:RequestTag/worldmodel": "cluster"}
STARTS_P4D = {**STARTS, "ec2:InstanceType": "p4d.24xlarge"}
TO_EC2 = {"iam:PassedToService": "ec2.amazonaws.com"}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The documents for one account and bucket."""
    given = {"account_id": ACCOUNT, "region": "us-west-2", "bucket": "ours"}
    return evaluate_module("aws", tmp_path_factory.mktemp("aws") / "policies", given)


Asked = list[tuple[str, str, dict[str, Any]]]
"""Actions, resources, and what else the request carries."""


def ask(aws: dict[str, Any], who: str, requests: Asked) -> list[tuple[str, str]]:
    """Each request with what AWS would answer."""
    asked = [Request(action=action, resource=resource, context=context) for action, resource, context in requests]
    answers = simulate(aws[who], asked, ACCOUNT)
    return [(f"{r.action} {r.resource} {r.context}", answer) for r, answer in zip(asked, answers, strict=True)]


def refused(answers: list[tuple[str, str]]) -> list[str]:
    """The requests that AWS would refuse."""
    return [request for request, answer in answers if answer != "Allowed"]


DATA_ALLOWED: Asked = [
    ("s3:ListBucket", BUCKET, {"s3:prefix": "runs/"}),
    ("s3:GetObject", f"{BUCKET}/games/shard-000000.tar", {}),
    ("s3:GetObject", f"{BUCKET}/runs/round1/grid.json", {}),
    ("s3:PutObject", f"{BUCKET}/runs/round1/grid.json", {}),
    ("s3:DeleteObject", f"{BUCKET}/blocks/0.arrow", {}),
    ("s3:AbortMultipartUpload", f"{BUCKET}/runs/x", {}),
    ("s3:ListMultipartUploadParts", f"{BUCKET}/runs/x", {}),
]
KEYS: Asked = [("ssm:GetParameter", f"arn:aws:ssm:us-west-2:{ACCOUNT}:parameter/worldmodel/WANDB_API_KEY", {})]
DATA_DENIED: Asked = [
    ("s3:ListBucket", BUCKET, {}),
    ("s3:ListBucket", f"{BUCKET}-of-others", {"s3:prefix": "runs/"}),
    ("s3:ListBucketMultipartUploads", BUCKET, {}),
    ("s3:GetObject", f"{BUCKET}/private/x", {}),
    ("s3:GetObject", f"{BUCKET}/runs-of-others/x", {}),
    ("s3:GetObject", f"{BUCKET}-of-others/runs/x", {}),
    ("s3:PutObject", f"{BUCKET}/games/shard-000000.tar", {}),
    ("s3:DeleteObject", f"{BUCKET}/games/shard-000000.tar", {}),
    ("s3:DeleteObjectVersion", f"{BUCKET}/runs/x", {}),
    ("s3:PutBucketPolicy", BUCKET, {}),
    ("s3:PutLifecycleConfiguration", BUCKET, {}),
    ("s3:DeleteBucket", BUCKET, {}),
    ("ssm:GetParameter", f"arn:aws:ssm:us-west-2:{ACCOUNT}:parameter/others/KEY", {}),
    ("ssm:PutParameter", f"arn:aws:ssm:us-west-2:{ACCOUNT}:parameter/worldmodel/WANDB_API_KEY", {}),
    ("iam:CreateUser", f"arn:aws:iam::{ACCOUNT}:user/x", {}),
    ("iam:PutRolePolicy", f"arn:aws:iam::{ACCOUNT}:role/worldmodel-worker", {}),
    ("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/Admin", {}),
]
MACHINES: Asked = [
    ("ec2:RunInstances", f"{OWN}:instance/*", STARTS_P4D),
    ("ec2:RunInstances", f"{OWN}:volume/*", STARTS),
    ("ec2:RunInstances", "arn:aws:ec2:us-west-2::image/ami-0123456789abcdef0", {}),
    ("ec2:RunInstances", f"{OWN}:subnet/subnet-0123456789abcdef0", {}),
    ("ec2:RunInstances", f"{OWN}:security-group/sg-0123456789abcdef0", {}),
    ("ec2:RunInstances", f"{OWN}:network-interface/*", {}),
    ("ec2:RunInstances", f"{OWN}:key-pair/ray-autoscaler", {}),
    ("ec2:CreateTags", f"{OWN}:volume/*", {"ec2:CreateAction": "RunInstances", "aws:TagKeys": ["worldmodel"]}),
    ("ec2:CreateTags", INSTANCE, {**TAGGED, "aws:TagKeys": ["ray-node-status", "Name"]}),
    ("ec2:TerminateInstances", INSTANCE, TAGGED),
    ("ec2:StopInstances", INSTANCE, TAGGED),
    ("ec2:StartInstances", INSTANCE, TAGGED),
    ("ec2:DescribeInstances", "*", {"aws:RequestedRegion": "us-west-2"}),
    ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/worldmodel-worker", TO_EC2),
]
HEAD_DENIED: Asked = [
    ("ec2:RunInstances", f"{OWN}:instance/*", {}),
    ("ec2:RunInstances", f"{OWN}:instance/*", {**STARTS, "ec2:InstanceType": "p5.48xlarge"}),
    ("ec2:RunInstances", f"{OWN}:instance/*", {"ec2:InstanceType": "p4d.24xlarge"}),
    ("ec2:RunInstances", f"{OWN}:volume/*", {"aws:RequestTag/worldmodel": "other"}),
    ("ec2:RunInstances", f"arn:aws:ec2:eu-west-1:{ACCOUNT}:instance/*", STARTS_P4D),
    ("ec2:TerminateInstances", INSTANCE, {}),
    ("ec2:StopInstances", INSTANCE, {"aws:ResourceTag/worldmodel": "infra"}),
    ("ec2:CreateTags", f"{OWN}:instance/i-0aaaaaaaaaaaaaaaa", {"aws:TagKeys": ["ray-node-status"]}),
    ("ec2:CreateTags", INSTANCE, {**TAGGED, "aws:TagKeys": ["worldmodel"]}),
    ("ec2:ModifyInstanceAttribute", INSTANCE, TAGGED),
    ("ec2:AuthorizeSecurityGroupIngress", f"{OWN}:security-group/sg-0123456789abcdef0", {}),
    ("ec2:DescribeInstances", "*", {"aws:RequestedRegion": "eu-west-1"}),
    ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/Admin", TO_EC2),
    ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/worldmodel-head", TO_EC2),
    ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/worldmodel-worker", {"iam:PassedToService": "lambda.amazonaws.com"}),
]


def test_the_head_may_do_what_the_cluster_needs(aws: dict[str, Any]) -> None:
    assert refused(ask(aws, "head", [*MACHINES, *DATA_ALLOWED, *KEYS])) == []
    images = [s for s in json.loads(aws["head"])["Statement"] if s["Sid"] == "FindMachineImages"]
    assert images[0]["Resource"] == ["arn:aws:ssm:us-west-2::parameter/aws/service/*"]  # the simulator knows no such


def test_the_head_may_make_every_call_that_rays_launcher_makes_there(aws: dict[str, Any]) -> None:
    """The calls in the source of Ray's node provider, which runs on the head."""
    from ray.autoscaler._private.aws import node_provider

    source = Path(node_provider.__file__).read_text()
    calls = set(
        re.findall(r"(?:client|ec2\w*)\.((?:create|start|stop|terminate|describe|modify|run|delete)_\w+)", source)
    )
    assert {"create_instances", "terminate_instances", "create_tags"} <= calls
    names = {"create_instances": "RunInstances"}
    asked = {f"ec2:{names.get(call, call.title().replace('_', ''))}" for call in calls} | {"ec2:DescribeInstances"}
    allowed = {action for statement in json.loads(aws["head"])["Statement"] for action in statement["Action"]}
    assert asked <= allowed
    assert {action for action in allowed if action.startswith("ec2:")} == asked, "a right that Ray does not use"


def test_the_head_may_not_touch_other_machines_roles_or_data(aws: dict[str, Any]) -> None:
    asked = [*HEAD_DENIED, *DATA_DENIED]
    assert len(refused(ask(aws, "head", asked))) == len(asked)


def test_a_worker_may_use_the_buckets_folders(aws: dict[str, Any]) -> None:
    assert refused(ask(aws, "worker", DATA_ALLOWED)) == []


def test_a_worker_may_do_nothing_else(aws: dict[str, Any]) -> None:
    asked = [*MACHINES, *HEAD_DENIED, *DATA_DENIED, *KEYS]
    assert len(refused(ask(aws, "worker", asked))) == len(asked)


def test_what_this_projects_storage_asks_of_s3_is_allowed(aws: dict[str, Any]) -> None:
    """Each call that `worldmodel.storage` and `object_upload` make below runs/, by the right that it needs.

    Looking for uploads that were cut off knows no folders, so it is not allowed; a new upload is begun then.
    """
    needed = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    calls = [(action, f"{BUCKET}/runs/a/b", {}) for action in [*needed, "s3:ListMultipartUploadParts"]]
    listing = [("s3:ListBucket", BUCKET, {"s3:prefix": "runs/a/"})]
    for who in ("head", "worker"):
        assert refused(ask(aws, who, [*calls, *listing])) == []


def test_only_machines_take_these_roles_and_the_bucket_refuses_what_is_not_encrypted(aws: dict[str, Any]) -> None:
    (trust,) = json.loads(aws["trust"])["Statement"]
    assert (trust["Principal"], trust["Action"]) == ({"Service": "ec2.amazonaws.com"}, ["sts:AssumeRole"])
    (rule,) = json.loads(aws["bucket"])["Statement"]
    assert (rule["Effect"], rule["Principal"]) == ("Deny", "*")
    assert rule["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


EVALUATE_CEL = r"""
import json, re, sys
import celpy
from celpy import celtypes

def extract(text, template):  # Google's own: what stands at {name}, up to the next slash
    before, after = re.split(r"\{[^}]*\}", str(template))
    text = str(text)
    if before not in text:
        return celtypes.StringType("")
    rest = text.split(before, 1)[1]
    return celtypes.StringType(rest.split(after, 1)[0] if after else rest)

answers = []
for asked in json.load(sys.stdin):
    attributes = asked["attributes"]
    def get_attribute(api, name, default):
        return celtypes.StringType(attributes.get(str(name), str(default)))
    environment = celpy.Environment()
    program = environment.program(
        environment.compile(asked["condition"]), functions={"extract": extract, "getAttribute": get_attribute}
    )
    given = {"resource": asked["resource"], "api": {}}
    answers.append(bool(program.evaluate(celpy.json_to_cel(given))))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def gcp(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The rights for one project and bucket."""
    given = {"project_number": "42", "bucket": "ours"}
    return evaluate_module("gcp", tmp_path_factory.mktemp("gcp") / "policies", given)


def hold(condition: str, *cases: tuple[str, str, str]) -> list[bool]:
    """Whether a condition of Google's holds for each resource: its type, its name, and the prefix that is listed."""
    asked = [
        {
            "condition": condition,
            "resource": {"type": kind, "name": name},
            "attributes": {"storage.googleapis.com/objectListPrefix": prefix} if prefix else {},
        }
        for kind, name, prefix in cases
    ]
    ended = subprocess.run(
        [find_tool("python"), "-c", EVALUATE_CEL], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return list(json.loads(ended.stdout))


OBJECT, PLACE = "storage.googleapis.com/Object", "projects/_/buckets/ours/objects"
MACHINE, ZONE = "compute.googleapis.com/Instance", "projects/mine/zones/us-central1-a/instances"


def test_on_google_rights_over_machines_hold_for_those_of_the_cluster(gcp: dict[str, Any]) -> None:
    cases = [(MACHINE, f"{ZONE}/{n}", "") for n in ("ray-worldmodel-worker-1", "ray-other-worker-1", "database", "")]
    assert hold(gcp["machines"]["condition"], *cases) == [True, False, False, False]


def test_on_google_only_the_folders_are_read_and_only_blocks_and_runs_written(gcp: dict[str, Any]) -> None:
    names = ["games/a.tar", "runs/a/b", "runs-of-others/a", "private", "blocks/0.arrow"]
    cases = [(OBJECT, f"{PLACE}/{name}", "") for name in names]
    assert hold(gcp["reading"]["condition"], *cases) == [True, True, False, False, True]
    assert hold(gcp["writing"]["condition"], *cases) == [False, True, False, False, True]
    other = (OBJECT, "projects/_/buckets/others/objects/runs/a", "")
    assert hold(gcp["reading"]["condition"], other) == hold(gcp["writing"]["condition"], other) == [False]


def test_on_google_only_the_folders_are_listed(gcp: dict[str, Any]) -> None:
    bucket = ("storage.googleapis.com/Bucket", "projects/_/buckets/ours")
    cases = [(*bucket, prefix) for prefix in ("runs/a/", "games/", "", "private/", "runs")]
    assert hold(gcp["reading"]["condition"], *cases) == [True, True, False, False, False]


def test_on_google_only_the_clusters_keys_are_read(gcp: dict[str, Any]) -> None:
    names = ["projects/42/secrets/worldmodel-WANDB_API_KEY/versions/latest", "projects/42/secrets/other/versions/1"]
    cases = [("secretmanager.googleapis.com/SecretVersion", name, "") for name in names]
    assert hold(gcp["keys"]["condition"], *cases) == [True, False]


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The rights for one resource group and container."""
    given = {"resource_group": "/subscriptions/0/resourceGroups/worldmodel", "container": "ours"}
    return evaluate_module("azure", tmp_path_factory.mktemp("azure") / "policies", given)


def judge_azure(condition: str, action: str, *, container: str = "ours", path: str = "", prefix: str = "") -> bool:
    """Whether a condition of Azure's holds: ! AND OR NOT, ActionMatches, StringEquals and StringLike, as documented."""
    blobs = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
    is_list = bool(prefix)
    values = {f"@Resource[{blobs}:path]": path, f"@Request[{blobs}:prefix]": prefix,
              "@Resource[Microsoft.Storage/storageAccounts/blobServices/containers:name]": container}  # fmt: skip

    def settle(found: re.Match[str]) -> str:
        kind, text = found["kind"], found["text"]
        if kind:
            wanted = f"{blobs}/{action}" if kind == "ActionMatches" else "Blob.List"
            return str(text == wanted and (kind == "ActionMatches" or is_list))
        matches = fnmatchcase if found["how"] == "StringLike" else str.__eq__
        return str(matches(values[found["what"]], found["value"]))

    pattern = r"(?P<kind>\w+Matches)\{'(?P<text>[^']*)'\}|(?P<what>@\w+\[[^\]]*\]) (?P<how>\w+) '(?P<value>[^']*)'"
    logic = re.sub(pattern, settle, condition)
    assert re.fullmatch(r"(True|False|AND|OR|NOT|!|[() ])*", logic), logic
    for theirs, ours in (("AND", " and "), ("OR", " or "), ("NOT", " not "), ("!", " not ")):
        logic = logic.replace(theirs, ours)
    return bool(eval(logic, {"__builtins__": {}}))


def test_on_azure_only_the_folders_are_read_and_only_blocks_and_runs_written(azure: dict[str, Any]) -> None:
    condition = azure["data"]["condition"]
    for path, may_read, may_write in [
        ("games/a.tar", True, False), ("runs/a/b", True, True), ("blocks/0", True, True),
        ("private", False, False), ("runs-of-others/a", False, False),
    ]:  # fmt: skip
        assert judge_azure(condition, "read", path=path) == may_read, path
        assert not judge_azure(condition, "read", path=path, container="others")
        for action in ("write", "add/action", "delete"):
            assert judge_azure(condition, action, path=path) == may_write, (action, path)
    assert [judge_azure(condition, "read", prefix=p) for p in ("runs/a/", "private/")] == [True, False]


def test_on_azure_the_condition_covers_every_right_over_data(azure: dict[str, Any]) -> None:
    actions = [name.split("/blobs/")[1] for name in azure["data"]["data_actions"]]
    assert not any(judge_azure(azure["data"]["condition"], action, path="private") for action in actions)
