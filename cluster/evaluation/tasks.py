"""The tasks of an evaluation, on any node: read and verify slices of one subject, and score them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch

from cluster.redaction import one_line
from cluster.runtime.ordered_map import Needs
from cluster.shards import Index, Shard
from cluster.store import Store, open_store
from cluster.stream import slices_of
from cluster.stream.verified import read_shard
from metasr.config import ModelConfig
from metasr.data.degrade import Degradation
from metasr.errors import DataError, MetaSRError
from metasr.evaluation import BICUBIC, LANCZOS, Conditions, Evaluation, Method, evaluate
from metasr.evaluation.downstream import Grid, Outcome, Step, compare_labels
from metasr.evaluation.methods import MODEL_NAME
from metasr.evaluation.report import device_name
from metasr.inference.bundle import Bundle, default_device
from metasr.models import SuperResolver, build_generator
from metasr.perceptual_distance import load_perceptual_distance
from metasr.scale import Scale
from metasr.trust.conformal import Calibration

SLICES_A_TASK = 10


@dataclass(frozen=True)
class Weights:
    """A network to send to other processes: its settings, and its values as safetensors."""

    config: ModelConfig
    values: bytes

    @classmethod
    def of(cls, bundle: Bundle) -> "Weights":
        """Return the weights of a bundle."""
        values = {name: value.cpu().contiguous() for name, value in bundle.generator.state_dict().items()}
        return cls(ModelConfig.model_validate(bundle.about["config"]["model"]), safetensors.torch.save(values))

    def build(self, device: torch.device) -> SuperResolver:
        """Return the network, ready for use."""
        generator = build_generator(self.config)
        generator.load_state_dict(safetensors.torch.load(self.values))
        return generator.to(device).eval()


@dataclass(frozen=True)
class Setup:
    """Inputs that all tasks of an evaluation share.

    Attributes:
        store_url: URL of the data.
        index: Index of the data.
        model: The evaluated model.
        rivals: Models to compare with besides interpolation, by name.
        scales: Scales, see `evaluate`.
        slices_per_subject: Number of evenly spread slices of each subject; 0: all.
        degradation: How LR is made.
        perceptual_weights: Weights file of a perceptual distance, readable on all nodes.
        slice_mm: Distance between slices; 0: the pixel spacing.
        needs: Resources reserved for a task; it uses one thread per reserved core.
        pictured: Subject whose middle slice is saved as images.
        trust: The model's calibration, whose bounds are checked; None where it has none.
    """

    store_url: str
    index: Index
    model: Weights
    rivals: dict[str, Weights]
    scales: tuple[Scale, ...]
    slices_per_subject: int
    degradation: Degradation
    perceptual_weights: Path | None
    slice_mm: float
    needs: Needs
    pictured: str
    trust: Calibration | None = None


class Share(NamedTuple):
    """Part `number` (counted from 0) of `of` parts of a subject's slices."""

    subject: str
    shard: Shard
    number: int
    of: int
    num_slices: int


class ScoredShare(NamedTuple):
    """The result of a task, and its device."""

    result: Evaluation
    device: str


def shares(store: Store, index: Index, per_subject: int) -> list[Share]:
    """Return the parts of all validation subjects in the order of the index, deterministically."""
    found = []
    for shard in index.shards:
        if shard.split != "val":
            continue
        # Older indices do not list the subjects of a shard.
        samples = [] if shard.subjects else read_shard(store, index, shard)
        subjects = shard.subjects or tuple(dict.fromkeys(sample.subject for sample in samples))
        held = max(1, shard.num_samples // len(subjects))
        slices = min(held, per_subject or held)
        of = -(-slices // SLICES_A_TASK)
        found += [Share(name, shard, number, of, -(-slices // of)) for name in subjects for number in range(of)]
    return found


def score(setup: Setup, share: Share) -> ScoredShare:
    """Evaluate a part of a subject's slices.

    Raises:
        MetaSRError: The slices cannot be read or evaluated; it names the subject.
    """
    with _task(setup, share.subject) as device:
        slices = slices_of(
            open_store(setup.store_url), setup.index, share.shard, share.subject, setup.slices_per_subject
        )
        middle = slices[len(slices) // 2]
        first, stop = (number * len(slices) // share.of for number in (share.number, share.number + 1))
        file = setup.perceptual_weights
        result = evaluate(
            setup.model.build(device),
            slices[first:stop],
            setup.scales,
            Conditions(setup.degradation, load_perceptual_distance(file=file) if file else None, setup.trust),
            rivals=[LANCZOS, *_networks(setup, device)],
            pictured=[middle] if share.subject == setup.pictured else [],
        )
        return ScoredShare(result, device_name(device))


def downstream(setup: Setup, work: tuple[Step, Share]) -> list[Outcome]:
    """Compare the labels that a step finds in SR and in HR of a whole subject.

    Raises:
        MetaSRError: The slices cannot be read, or the step fails; it names the subject.
    """
    step, share = work
    with _task(setup, share.subject) as device:
        per_subject = 0 if step.all_slices else setup.slices_per_subject
        slices = slices_of(open_store(setup.store_url), setup.index, share.shard, share.subject, per_subject)
        grid = Grid.of(setup.index.spacing_mm, setup.slice_mm, [one.number for one in slices])
        methods = [BICUBIC, *_networks(setup, device), Method(MODEL_NAME, setup.model.build(device))]
        return list(compare_labels(step, slices, setup.scales, setup.degradation, methods, grid))


def _networks(setup: Setup, device: torch.device) -> list[Method]:
    return [Method(name, weights.build(device)) for name, weights in setup.rivals.items()]


@contextmanager
def _task(setup: Setup, subject: str) -> Iterator[torch.device]:
    """Yield the device, with the thread count of a task; name the subject in errors."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, round(setup.needs.cpus)))
    try:
        yield default_device() if setup.needs.gpus else torch.device("cpu")
    except MetaSRError as error:
        if subject in error.what:
            raise
        raise type(error)(f"subject {subject}: {error.what}", error.why, error.fix) from error
    except (RuntimeError, ValueError, MemoryError) as error:
        fix = "--workers 1 --debug shows where"
        raise DataError(f"subject {subject} cannot be evaluated", one_line(error), fix) from error
    finally:
        torch.set_num_threads(before)
