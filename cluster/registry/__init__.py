"""The model registry: versions, their evidence, the promotion gate and the champion."""

from cluster.registry.evidence import EVALUATION, record_evaluation
from cluster.registry.promotion import against_gate, history, promote, rollback
from cluster.registry.records import Evidence
from cluster.registry.versions import BUNDLE_DIGEST, CHALLENGER, CHAMPION, RUN_NAME, Located, Registry

__all__ = [
    "BUNDLE_DIGEST",
    "CHALLENGER",
    "CHAMPION",
    "EVALUATION",
    "RUN_NAME",
    "Evidence",
    "Located",
    "Registry",
    "against_gate",
    "history",
    "promote",
    "record_evaluation",
    "rollback",
]
