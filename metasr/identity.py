"""What a run is made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunIdentity:
    """What a run is made from, kept in every checkpoint and bundle.

    Attributes:
        run_name: Name of the run; the same settings on the same data give the same name.
        code_version: Git commit, or the version of the package.
        data_url: Store of the training data.
        data_digest: SHA-256 of that store's index.
        initial_bundle: SHA-256 of the bundle whose weights it started from; empty for random ones.
        forked_from: Run and step that it branched off from, as RUN@STEP; empty where it did not.
        trained_on: What its data is like, see `metasr.inference.suitability.TrainedOn`; empty where nobody knows.
    """

    run_name: str
    code_version: str
    data_url: str
    data_digest: str
    initial_bundle: str = ""
    forked_from: str = ""
    trained_on: Mapping[str, Any] = field(default_factory=dict)
