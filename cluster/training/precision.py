"""The choice behind `train.precision: auto`: made once for all workers of a run or trials of a sweep, and kept."""

import os
from collections.abc import Callable
from typing import Literal

import ray

from cluster.config import JobConfig
from cluster.preflight.machines import nodes_without_bfloat16
from cluster.preflight.node import computes_bfloat16
from cluster.runtime.connection import connected

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float32")


def choose_precision(config: JobConfig, begun: Callable[[Precision], bool], tell: Callable[[str], None]) -> Precision:
    """Return the precision that the run was started with; else bfloat16 if all machines compute it natively.

    With RAY_ADDRESS set, or if connected to Ray, these are the nodes that workers fit on; otherwise this machine.

    Args:
        config: The settings.
        begun: Returns whether a run, or a sweep, with these settings and a precision exists.
        tell: Called with a line on the choice, and why.

    Raises:
        ConfigError: A node does not answer, or a worker fits on none.
    """
    found = [precision for precision in PRECISIONS if begun(precision)]
    if len(found) == 1:
        tell(f"precision: {found[0]}, which it was started with")
        return found[0]
    if lacking := _who_lacks_bfloat16(config):
        tell(f"precision: float32 ({lacking} no bfloat16)")
        return "float32"
    tell("precision: bfloat16")
    return "bfloat16"


def _who_lacks_bfloat16(config: JobConfig) -> str:
    """Return who lacks native bfloat16, with a verb; empty if nobody does."""
    if not (ray.is_initialized() or os.environ.get("RAY_ADDRESS")):
        what = "GPU" if config.resources.gpu else "processor"
        return "" if computes_bfloat16(config.resources.gpu) else f"this {what} has"
    with connected(config.resources.cpus):
        lacking = nodes_without_bfloat16(config)
    return f"{', '.join(lacking)} {'has' if len(lacking) == 1 else 'have'}" if lacking else ""
