"""The job that the driver sends to every worker."""

from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle

from cluster.config import JobConfig
from metasr.identity import RunIdentity


@dataclass(frozen=True)
class Job:
    """The job that the driver sends to every worker.

    Attributes:
        config: The settings.
        identity: What the run is made from.
        fence: Fence of the driver's lease.
        mailbox: The mailbox.
        initial_weights: Initial weights in Ray's object store; None for random ones.
    """

    config: JobConfig
    identity: RunIdentity
    fence: int
    mailbox: ActorHandle[Any]
    initial_weights: "ray.ObjectRef[Any]"
