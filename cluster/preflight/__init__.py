"""What `metasr doctor` looks at before GPUs are spent, and of that what a job looks at when it starts."""

from cluster.preflight.results import CheckResult, State
from cluster.preflight.run import require, require_nodes, run_checks

__all__ = ["CheckResult", "State", "require", "require_nodes", "run_checks"]
