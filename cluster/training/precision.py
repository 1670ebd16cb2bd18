"""What `train.precision: auto` stands for: chosen once, for all workers of a run or trials of a sweep, and kept."""

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
    """Return the precision that was begun with, or else bfloat16 if all that compute do so natively.

    With RAY_ADDRESS set, or connected to Ray, that are all nodes that workers fit on; otherwise it is this machine.

    Args:
        config: The settings.
        begun: Returns whether there is a run, or a sweep, with these settings and a precision.
        tell: Told what was chosen, and why.

    Raises:
        ConfigError: A node does not answer, or there is none yet that a worker fits on.
    """
    found = [precision for precision in PRECISIONS if begun(precision)]
    if len(found) == 1:
        tell(f"precision: {found[0]}, which it was begun with")
        return found[0]
    if lacking := _who_lacks_bfloat16(config):
        tell(f"precision: float32 ({lacking} no bfloat16)")
        return "float32"
    tell("precision: bfloat16")
    return "bfloat16"


def _who_lacks_bfloat16(config: JobConfig) -> str:
    """Return whose bfloat16 would be slow, with a verb; empty if nobody's."""
    if not (ray.is_initialized() or os.environ.get("RAY_ADDRESS")):
        what = "GPU" if config.resources.gpu else "processor"
        return "" if computes_bfloat16(config.resources.gpu) else f"this {what} has"
    with connected(config.resources.cpus):
        lacking = nodes_without_bfloat16(config)
    return f"{', '.join(lacking)} {'has' if len(lacking) == 1 else 'have'}" if lacking else ""
