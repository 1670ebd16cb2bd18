"""The checks of `metasr doctor`, and the quick ones among them that a job makes when it starts."""

from cluster.preflight.results import CheckResult, State
from cluster.preflight.run import require, require_nodes, run_checks

__all__ = ["CheckResult", "State", "require", "require_nodes", "run_checks"]
