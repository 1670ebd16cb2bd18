"""S3 as pyarrow sees it, which Ray Train writes checkpoints with."""

import os

from pyarrow.fs import S3FileSystem


def arrow_filesystem() -> S3FileSystem:
    """Return pyarrow's view of S3, at the endpoint of AWS_ENDPOINT_URL; every node finds its own credentials."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return S3FileSystem(region=os.environ.get("AWS_REGION"), endpoint_override=endpoint)
