"""The way to an S3 server: its endpoint and credentials are what boto3 finds, AWS_* or the machine's role."""

import os
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from cluster.store.retry import RetryPolicy

CONNECTIONS = 32


def connect(policy: RetryPolicy) -> Any:
    """Return a boto3 client for S3. It contacts nobody yet."""
    config = Config(
        connect_timeout=policy.connect_s,
        read_timeout=policy.stall_s,
        # `Retries` asks again, not botocore: two loops, one in the other, would multiply the tries, botocore's does
        # not know of the deadline, and neither would it ask again for a body that is cut short or wrong.
        retries={"total_max_attempts": 1},
        # The store verifies bodies itself, also those that were stored in parts, which botocore lets pass.
        response_checksum_validation="when_required",
        max_pool_connections=CONNECTIONS,
        tcp_keepalive=True,
        s3={"addressing_style": "path"},
    )
    # A session of its own, because the default one is not safe in threads; boto3 does not read AWS_REGION.
    return boto3.session.Session(region_name=os.environ.get("AWS_REGION")).client("s3", config=config)


def host_of(client: Any) -> str:
    """Return where a client's server is, without the password that its URL may hold."""
    return urlsplit(str(client.meta.endpoint_url)).netloc.rpartition("@")[2]
