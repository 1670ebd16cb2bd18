"""What workers tell the driver while they train."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from metasr.context import EVENT_FORMAT, EventKind


@dataclass(frozen=True)
class Event:
    """Something that happened in training. It has no time of day: the clocks of nodes may be wrong.

    Retries, substituted and warnings come from every worker, all else from the first. The kinds, and the values that
    come with them (all may be missing):

    - group: a worker group is ready. `num_workers`; and how long each part of the start took, such as `data_s`.
    - resumed: the weights of `step` are loaded; 0 is a fresh start. `text` names bad checkpoints passed over.
    - changed: code or arithmetic has changed at this step, or at one before. `text` says how.
    - steps: an interval of steps has ended. `loss_...`; `steps_per_s` and `samples_per_s`, without the time that
      validation and checkpoints took; `waiting_share`, the part of the interval (0 to 1) that waited for data; and
      once in a group `since_first_step_s`, the age of its first step.
    - validated: the generator was looked at. `val_...`, `selection_score`, `seconds`; pictures.
    - kept: a checkpoint is whole on the worker's disk. `seconds`.
    - uploaded: a checkpoint is in the store. `seconds`, `bytes`; `pending`, those that still wait.
    - retries: requests were made again. A count for each reason, of this worker, since the group started.
    - skipped: the update of `step` was left out, because of NaN or Inf.
    - substituted: damaged shards were replaced. `text` has their names, with ", " between.
    - warning: `text` says what else a person should know.
    - stopping: a stop was asked for. `text` says by whom or what.

    Attributes:
        kind: One of the above.
        step: The newest step that is done.
        values: Numbers by name.
        text: Words.
        pictures: PNG files by name.
        rank: Number of the worker.
        format: Version of what the kinds and their values mean.
    """

    kind: EventKind
    step: int
    values: Mapping[str, float] = field(default_factory=dict)
    text: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    rank: int = 0
    format: int = EVENT_FORMAT


def finite(values: Mapping[str, float], name: str) -> float:
    """Return a value that can be counted with: 0 if it is missing, NaN or infinite."""
    value = values.get(name, 0.0)
    return value if math.isfinite(value) else 0.0
