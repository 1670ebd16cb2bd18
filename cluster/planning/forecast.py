"""From a few measured steps to the whole training: its time, its data, its storage."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cluster.config import JobConfig
from cluster.shards import Index
from cluster.store import Store
from cluster.stream import KEPT_WHOLE_BYTES
from metasr.config import ExperimentConfig
from metasr.data.sample import plan_step
from metasr.errors import TrainingError
from metasr.events import Event

PLANNED_STEPS = 2000  # of a phase, evenly spaced: enough for the mean over its scales
GB = 1e9


@dataclass(frozen=True)
class Phase:
    """Steps of one kind.

    Attributes:
        name: pixel, the pixel loss alone; full, all terms of the loss.
        steps: How many there are in the whole training.
        step_s: Seconds for one, on average over their scales.
        waiting_share: Part of that, 0 to 1, that waits for data.
    """

    name: str
    steps: int
    step_s: float = 0.0
    waiting_share: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """What a training will take.

    Attributes:
        num_workers: Workers that were measured.
        measured_steps: Steps of each phase that were measured, besides those to warm up.
        first_step_s: From the start of the command to the end of the first step.
        phases: Kinds of steps.
        validation_s: Seconds for one validation, while no step is done. This and what follows of one: of the newest.
        checkpoint_s: Seconds to write one checkpoint, while no step is done.
        upload_s: Seconds until it is in the store, while steps are done.
        num_validations: Validations, each with a checkpoint.
        once_s: Seconds to start and to end, besides steps, validations and checkpoints.
        total_s: Seconds for the whole training.
        samples_per_s: Patches trained on in a second of steps, over all workers.
        waiting_share: Part of the steps' time, 0 to 1, that waits for data.
        read_bytes: At most so much is read from the data's store.
        read_how: Why so much.
        checkpoint_bytes: Size of one checkpoint.
        storage_bytes: Size of all that are kept at the end, if the best is none of the newest.
        worker_hours: Hours times workers.
    """

    num_workers: int
    measured_steps: int
    first_step_s: float
    phases: tuple[Phase, ...]
    validation_s: float
    checkpoint_s: float
    upload_s: float
    num_validations: int
    once_s: float
    total_s: float
    samples_per_s: float
    waiting_share: float
    read_bytes: int
    read_how: str
    checkpoint_bytes: int
    storage_bytes: int
    worker_hours: float


@dataclass(frozen=True)
class ShortRun:
    """What a short run with each phase of the training reported.

    Attributes:
        events: All of them.
        warm_up, steps: Steps of each phase that do not count, and those that do.
        first_step_s: From the start to the end of the first step.
        wall_s: The whole run.
    """

    events: tuple[Event, ...]
    warm_up: int
    steps: int
    first_step_s: float
    wall_s: float

    def of_phases(self, kind: str, name: str) -> list[float]:
        """Return a value of the validation or checkpoint at the end of each phase.

        Raises:
            TrainingError: There was none.
        """
        found = [event.values.get(name, 0.0) for event in self.events if event.kind == kind]
        if not found:
            raise TrainingError("the estimate", f"its run told of nothing {kind}", "Run the same command again")
        return found

    def intervals(self, number: int) -> list[Event]:
        """Return what was told of the steps of a phase that count."""
        told = [event for event in self.events if event.kind == "steps"]
        length = self.warm_up + self.steps
        found = told[number * length + self.warm_up : (number + 1) * length]
        if len(found) < self.steps:
            raise TrainingError("the estimate", "its run told of too few steps", "Run the same command again")
        return found


def phases_of(config: ExperimentConfig) -> list[Phase]:
    """Return the kinds of steps a training has, in their order, without their times."""
    has_other_terms = bool(config.loss.adversarial or config.loss.perceptual)
    pixel = min(config.train.pixel_only_steps, config.train.steps) if has_other_terms else config.train.steps
    both = [Phase("pixel", pixel), Phase("full", config.train.steps - pixel)]
    return [phase for phase in both if phase.steps]


def forecast(config: JobConfig, data: Store, index: Index, measured: ShortRun) -> Estimate:
    """Return what the whole training will take.

    Args:
        config: Of the training.
        data: Where its data is.
        index: Of that store.
        measured: A run of these settings, except that it is short.

    Raises:
        TrainingError: That run told of too few steps.
    """
    train, workers = config.train, config.resources.num_workers
    phases, first = [], 0
    for number, phase in enumerate(phases_of(config)):
        phases.append(_timed(config, phase, first, measured.intervals(number)))
        first += phase.steps
    validation_s, checkpoint_s = (measured.of_phases(kind, "seconds")[-1] for kind in ("validated", "kept"))
    own_s = sum((measured.warm_up + measured.steps) * phase.step_s for phase in phases)
    # What the first validation and checkpoint take longer than the newest belongs to the start.
    once_s = max(0.0, measured.wall_s - len(phases) * (validation_s + checkpoint_s) - own_s)
    steps_s = sum(phase.steps * phase.step_s for phase in phases)
    looks = -(-train.steps // train.checkpoint_every_steps)
    total_s = once_s + steps_s + looks * (validation_s + checkpoint_s)
    sizes = [int(num_bytes) for num_bytes in measured.of_phases("uploaded", "bytes")]
    read_bytes, read_how = _read(config, data, index)
    return Estimate(
        num_workers=workers,
        measured_steps=measured.steps,
        first_step_s=measured.first_step_s,
        phases=tuple(phases),
        validation_s=validation_s,
        checkpoint_s=checkpoint_s,
        upload_s=measured.of_phases("uploaded", "seconds")[-1],
        num_validations=looks,
        once_s=once_s,
        total_s=total_s,
        samples_per_s=train.batch_size * train.steps / steps_s,
        waiting_share=sum(phase.steps * phase.step_s * phase.waiting_share for phase in phases) / steps_s,
        read_bytes=read_bytes,
        read_how=read_how,
        checkpoint_bytes=sizes[-1],
        storage_bytes=_kept(config, phases, sizes),
        worker_hours=total_s / 3600 * workers,
    )


def _timed(config: JobConfig, phase: Phase, first: int, intervals: Sequence[Event]) -> Phase:
    """Return a phase, which begins after `first` steps, with its times.

    A step at scale 1.1 has thirteen times the LR pixels of one at 4, and a few steps do not have all scales equally
    often: seconds are fitted to the sizes of the patches, and averaged over those that the phase will have.
    """
    seconds = np.array([1 / event.values["steps_per_s"] for event in intervals])
    waited = sum(one * event.values["waiting_share"] for one, event in zip(seconds, intervals, strict=True))
    seen = _sizes(config, [event.step - 1 for event in intervals])
    fit = np.linalg.lstsq(seen, seconds, rcond=None)[0]
    planned = np.linspace(first, first + phase.steps - 1, min(phase.steps, PLANNED_STEPS), dtype=int)
    expected = _sizes(config, planned.tolist()).mean(axis=0) @ fit
    # Seconds that do not depend on the sizes at all may be fitted to nonsense.
    step_s = float(np.clip(expected, seconds.min(), seconds.max()))
    return replace(phase, step_s=step_s, waiting_share=float(waited / seconds.sum()))


def _sizes(config: ExperimentConfig, steps: Sequence[int]) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """Return 1 and the areas of LR and HR patches, as parts of the largest, for each step: `[N, 3]`."""
    plans = [plan_step(config, step) for step in steps]
    largest = config.data.patch_px**2
    return np.array([(1.0, plan.lr_px**2 / largest, plan.hr_px**2 / largest) for plan in plans])


def _kept(config: ExperimentConfig, phases: Sequence[Phase], sizes: Sequence[int]) -> int:
    """Return the bytes of the checkpoints that are kept: the newest, and the largest of those before as the best.

    Those of the pixel loss alone have nothing yet of the discriminator's optimiser.
    """
    train = config.train
    steps = [*range(train.checkpoint_every_steps, train.steps, train.checkpoint_every_steps), train.steps]
    kept = [sizes[0] if step <= phases[0].steps else sizes[-1] for step in steps]
    newest, before = kept[-train.keep_checkpoints :], kept[: -train.keep_checkpoints]
    return sum(newest) + max(before, default=0)


def _read(config: JobConfig, data: Store, index: Index) -> tuple[int, str]:
    """Return how many bytes come from the data's store at most, and why."""
    train = [shard for shard in index.shards if shard.split == "train"]
    training, everything = (sum(shard.num_bytes for shard in shards) for shards in (train, index.shards))
    workers = config.resources.num_workers
    if config.storage.cache and not data.is_local and everything <= config.storage.cache_gb * GB:
        return everything, "each node once: it fits storage.cache"
    if training <= KEPT_WHOLE_BYTES:
        return everything * workers, f"{workers} workers once each: it stays in memory"
    epochs = config.train.steps * config.train.batch_size / sum(shard.num_samples for shard in train)
    validation = everything - training
    return int(training * max(1.0, epochs)) + validation * workers, f"{epochs:.1f} epochs, each read anew"
