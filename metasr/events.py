"""The events of a training: what the loop, and the cluster around it, report while it runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

EVENT_FORMAT: Final = 1
"""Version of the kinds of events below and of the values that come with them; another number when one changes its
meaning."""

EventKind = Literal[
    "group",
    "resumed",
    "changed",
    "steps",
    "validated",
    "kept",
    "uploaded",
    "retries",
    "skipped",
    "substituted",
    "warning",
    "stopping",
]


@dataclass(frozen=True)
class Event:
    """Something that happened in training. It has no time of day: the clocks of nodes may be wrong.

    The loop reports resumed, changed, steps, validated, skipped and warning; a cluster around it the others. Retries,
    substituted and warnings come from every worker, all others from the first. The kinds and their values (any may be
    missing):

    - group: a worker group is ready. `num_workers`; and the duration of each part of the start, such as `data_s`.
    - resumed: the weights of `step` are loaded; 0 is a fresh start. `text` names bad checkpoints that were skipped.
    - changed: code or arithmetic has changed at this step or an earlier one. `text` says how.
    - steps: an interval of steps has ended. `loss_...`; `steps_per_s` and `samples_per_s`, without the time for
      validation and checkpoints; `waiting_share`, the fraction of the interval that waited for data; and once per
      group `since_first_step_s`, the time since its first step.
    - validated: the generator was validated. `val_...`, `selection_score`, `seconds`; pictures.
    - kept: a checkpoint is complete on the worker's disk. `seconds`.
    - uploaded: a checkpoint is in the store. `seconds`, `bytes`; `pending`, the number still to upload.
    - retries: requests were retried. A count for each reason, of this worker, since the group started.
    - skipped: the update of `step` was skipped, because of NaN or Inf.
    - substituted: damaged shards were replaced. `text` has their names, separated by ", ".
    - warning: anything else to report, in `text`.
    - stopping: a stop was requested. `text` says by whom or what.

    Attributes:
        kind: One of the above.
        step: The newest completed step.
        values: Numbers by name.
        text: Text of the event.
        pictures: PNG files by name.
        rank: Rank of the worker.
        format: Format version of the kinds and their values.
    """

    kind: EventKind
    step: int
    values: Mapping[str, float] = field(default_factory=dict)
    text: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    rank: int = 0
    format: int = EVENT_FORMAT

    def finite(self, name: str) -> float:
        """Return a value, or 0 if it is missing, NaN or infinite."""
        value = self.values.get(name, 0.0)
        return value if math.isfinite(value) else 0.0
