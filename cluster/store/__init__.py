"""Object storage: whole objects in an S3 bucket or in a folder, behind one interface."""

from cluster.store.errors import (
    AlreadyThereError,
    BusyError,
    ChangedError,
    DamagedError,
    NotThereError,
    UnavailableError,
)
from cluster.store.folder import FolderStore, free_bytes
from cluster.store.interface import Stat, Store, Version
from cluster.store.retry import RetryPolicy
from cluster.store.url import open_store
from cluster.store.waiting import (
    IS_BACK,
    WAITS_FOR_STORE,
    StoreWait,
    WaitingStore,
    wait_for_store,
    wait_while_busy,
)

__all__ = [
    "IS_BACK",
    "WAITS_FOR_STORE",
    "AlreadyThereError",
    "BusyError",
    "ChangedError",
    "DamagedError",
    "FolderStore",
    "NotThereError",
    "RetryPolicy",
    "Stat",
    "Store",
    "StoreWait",
    "UnavailableError",
    "Version",
    "WaitingStore",
    "free_bytes",
    "open_store",
    "wait_for_store",
    "wait_while_busy",
]
