"""Uploading to S3: in one request, or in parts if it is large; every request carries the SHA-256 of its body."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from botocore.parsers import ResponseParserError

from cluster.store.source import Part, Source

PARALLEL_PARTS = 4  # in memory at a time
T = TypeVar("T")


class Ask(Protocol):
    """Sends a request, again if that may help. The request calls what it is given, which raises at the deadline."""

    def __call__(self, request: Callable[[Callable[[], None]], T]) -> T:
        """Return what the request returns."""


def upload(
    client: Any, ask: Ask, target: dict[str, str], source: Source, metadata: dict[str, str], condition: dict[str, str]
) -> str:
    """Upload an object and return its ETag. boto3's own transfers know no conditions and return no ETag.

    Args:
        client: Of boto3.
        ask: Sends requests.
        target: Bucket and key.
        source: What to upload.
        metadata: What the object carries.
        condition: `IfNoneMatch` or `IfMatch`, checked at the moment the object appears.
    """
    if len(source.parts) > 1:
        return _in_parts(client, ask, target, source, metadata, condition)
    part = source.parts[0]

    def put(check: Callable[[], None]) -> str:
        body = _Body(source, part, check)
        answer = client.put_object(**target, **condition, Metadata=metadata, Body=body, ChecksumSHA256=part.sha256)
        return str(answer["ETag"])

    return ask(put)


def _in_parts(
    client: Any, ask: Ask, target: dict[str, str], source: Source, metadata: dict[str, str], condition: dict[str, str]
) -> str:
    def begin(_: Callable[[], None]) -> str:
        answer = client.create_multipart_upload(**target, Metadata=metadata, ChecksumAlgorithm="SHA256")
        return _said(answer, "UploadId")

    upload = {**target, "UploadId": ask(begin)}

    def send(part: Part) -> dict[str, Any]:
        answer = ask(
            lambda check: client.upload_part(
                **upload, PartNumber=part.number, Body=_Body(source, part, check), ChecksumSHA256=part.sha256
            )
        )
        return {"PartNumber": part.number, "ETag": answer["ETag"], "ChecksumSHA256": part.sha256}

    def complete(_: Callable[[], None]) -> str:
        return _said(client.complete_multipart_upload(**upload, **condition, MultipartUpload={"Parts": sent}), "ETag")

    try:
        with ThreadPoolExecutor(PARALLEL_PARTS) as pool:
            sent = list(pool.map(send, source.parts))
        return ask(complete)
    except BaseException:
        # Its parts would be kept, and paid for, for ever.
        with suppress(Exception):
            client.abort_multipart_upload(**upload)
        raise


def _said(answer: dict[str, Any], name: str) -> str:
    """Return what an answer must contain: for botocore, one of which nothing has arrived is an answer too."""
    if name not in answer:
        raise ResponseParserError(f"no {name}")
    return str(answer[name])


class _Body(io.BytesIO):
    """The bytes of a part, as a file: boto3 reads it in small pieces, between which the deadline is looked at."""

    def __init__(self, source: Source, part: Part, check: Callable[[], None]) -> None:
        super().__init__(source.read(part))
        self._check = check

    def read(self, size: int | None = -1) -> bytes:
        self._check()
        return super().read(size)
