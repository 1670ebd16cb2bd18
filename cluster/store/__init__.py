"""Object storage: whole objects in an S3 bucket or in a folder, behind one interface."""

from cluster.store.errors import AlreadyThereError, ChangedError, DamagedError, NotThereError, UnavailableError
from cluster.store.folder import FolderStore
from cluster.store.interface import Stat, Store, Version
from cluster.store.patience import patiently, pause_s
from cluster.store.retry import RetryPolicy
from cluster.store.url import open_store

__all__ = [
    "AlreadyThereError",
    "ChangedError",
    "DamagedError",
    "FolderStore",
    "NotThereError",
    "RetryPolicy",
    "Stat",
    "Store",
    "UnavailableError",
    "Version",
    "open_store",
    "patiently",
    "pause_s",
]
