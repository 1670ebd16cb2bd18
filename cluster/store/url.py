"""From a URL to the store behind it."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from cluster.store.folder import FolderStore
from cluster.store.interface import Store
from cluster.store.retry import RetryPolicy
from metasr.errors import StoreError


def open_store(url: str, policy: RetryPolicy | None = None, *, has_begun: bool = False) -> Store:
    """Return the store at `s3://bucket/prefix`, `file:///folder`, `file:folder` or a plain path.

    Nothing is contacted or made. The store's own `url` is absolute: it means the same in any directory.

    Args:
        url: Of the store.
        policy: How often and how long a bucket is asked again.
        has_begun: What uses the store has found something there before. A folder that is missing or empty is then
            away, like a server that does not answer: a lost mount.
    """
    policy = policy or RetryPolicy()
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    scheme, rest = (match[1].lower(), url[match.end() :]) if match else ("", url)
    if scheme == "s3" and (match := re.fullmatch(r"//([A-Za-z0-9._-]+)(/.*)?", rest)):
        from cluster.store.s3 import S3Store  # here, because a run on folders need not wait for boto3

        return S3Store(match[1], (match[2] or "").strip("/"), policy)
    if scheme == "file":
        rest = unquote(re.sub(r"^//(localhost)?(?=/)", "", rest))
    if scheme in ("", "file") and rest and not rest.startswith("//"):
        return FolderStore(Path(os.path.expanduser(rest)).absolute(), policy, has_begun)
    # The rest of the URL is not repeated: it may hold a password.
    why = f"{scheme + ':...' if scheme else 'its URL'} names no folder and no bucket"
    raise StoreError("cannot open the store", why, "Use s3://bucket/prefix, file:///folder or a plain path")
