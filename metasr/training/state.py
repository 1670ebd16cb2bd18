"""Everything a run needs to go on where it stopped, and nothing else."""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from metasr import manifest
from metasr.arithmetic import arithmetic
from metasr.config import ExperimentConfig, OptimConfig
from metasr.errors import CheckpointError
from metasr.identity import RunIdentity
from metasr.models import Discriminator, SuperResolver, build_discriminator, build_generator
from metasr.training.adam import Adam, adam, set_learning_rate
from metasr.training.lineage import Stretch, lineage_of

WEIGHTS, LOG = "state.safetensors", "metrics.jsonl"


@dataclass
class TrainingState:
    """Networks, optimisers and the number of updates done.

    Sample order, scales and patches follow from the seed and the step, learning rates from the step, so that no
    other state exists.

    Attributes:
        generator: What is trained.
        average: Moving average of the generator over the steps; None where `optim.ema_decay` is 0.
        discriminator: Its opponent.
        generator_optimiser, discriminator_optimiser: Adam.
        step: Steps done.
        skipped: Of those, steps whose update was left out because it was NaN or infinite.
        log: What was recorded of each step, one JSON text each: nothing that depends on time or machine.
        lineage: What computed the steps so far, and will compute the next, see `go_on`.
    """

    generator: SuperResolver
    average: SuperResolver | None
    discriminator: Discriminator
    generator_optimiser: Adam
    discriminator_optimiser: Adam
    step: int = 0
    skipped: int = 0
    log: list[str] = field(default_factory=list)
    lineage: tuple[Stretch, ...] = ()

    @classmethod
    def initial(cls, config: ExperimentConfig, device: torch.device, *, mean: float, std: float) -> "TrainingState":
        """Build the networks with weights that follow from the seed, on every worker the same."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            generator = build_generator(config.model, mean=mean, std=std).to(device)
            discriminator = build_discriminator(config.model).to(device)
        return cls(
            generator,
            copy.deepcopy(generator).requires_grad_(False) if config.optim.ema_decay else None,
            discriminator,
            adam(generator.parameters(), config.optim.generator_lr, device),
            adam(discriminator.parameters(), config.optim.discriminator_lr, device),
        )

    @property
    def best_generator(self) -> SuperResolver:
        """The generator to validate and to keep: the average where there is one."""
        return self.average or self.generator

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take the generator's weights from another run; mean and std stay those of this run's data."""
        own = self.generator.state_dict()
        weights = {name: own[name] if name in ("mean", "std") else value for name, value in weights.items()}
        for generator in filter(None, (self.generator, self.average)):
            generator.load_state_dict(weights)

    def set_learning_rates(self, optim: OptimConfig, num_steps: int) -> None:
        """Set both learning rates to what the schedule gives for the coming step of `num_steps`."""
        if optim.schedule == "cosine":
            factor = (1 + math.cos(math.pi * self.step / num_steps)) / 2
        else:
            factor = optim.decay_factor ** (self.step // optim.decay_every_steps)
        set_learning_rate(self.generator_optimiser, optim.generator_lr * factor)
        set_learning_rate(self.discriminator_optimiser, optim.discriminator_lr * factor)

    def average_weight(self, decay: float) -> float:
        """Return the generator's weight in the coming average: a larger one in the first steps, which change most."""
        return 1 - min(decay, (1 + self.step) / (10 + self.step))

    @torch.no_grad()
    def update_average(self, weight: Tensor) -> None:
        """Move the average towards the generator by `weight`, a scalar from 0 to 1 on their device."""
        if self.average is None:
            return
        for weights, newest in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            weights.lerp_(newest, weight)
        for average, current in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            average.copy_(current)

    def record(self, **values: float) -> None:
        """Add what was seen at this step to the log."""
        self.log.append(json.dumps({"step": self.step} | values))

    def go_on(self, code_version: str) -> None:
        """Note which code, on which machine, computes the steps from here on."""
        now = Stretch(self.step, code_version, arithmetic(next(self.generator.parameters()).device))
        if not self.lineage or self.lineage[-1][1:] != now[1:]:
            self.lineage += (now,)

    def save(self, folder: Path, config: ExperimentConfig, identity: RunIdentity) -> None:
        """Write a checkpoint into an empty folder; its manifest comes last."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.tensors().items()}
        (folder / WEIGHTS).write_bytes(safetensors.torch.save(tensors))  # says OSError where the disk is full
        (folder / LOG).write_text("".join(f"{line}\n" for line in self.log))
        about = {
            "step": self.step,
            "skipped": self.skipped,
            **asdict(identity),
            "lineage": [stretch._asdict() for stretch in self.lineage],
            "config": config.model_dump(mode="json"),
        }
        manifest.seal(folder, "checkpoint", about)

    def load(self, folder: Path) -> None:
        """Restore a checkpoint after checking its files. An average that it lacks begins with its generator.

        Raises:
            CheckpointError: A file is missing or damaged, or holds other networks; the state must not be used then.
        """
        about = manifest.unseal(folder, "checkpoint")
        device = next(self.generator.parameters()).device
        try:
            stored = safetensors.torch.load_file(folder / WEIGHTS, device=str(device))
            self.generator.load_state_dict(_under(stored, "generator"))
            if self.average is not None:  # a fork of a run without an average begins one with the generator
                self.average.load_state_dict(_under(stored, "average") or _under(stored, "generator"))
            self.discriminator.load_state_dict(_under(stored, "discriminator"))
            _load_adam(self.generator_optimiser, _under(stored, "generator_optimiser"))
            _load_adam(self.discriminator_optimiser, _under(stored, "discriminator_optimiser"))
            self.step, self.skipped = int(about["step"]), int(about["skipped"])
            self.log = (folder / LOG).read_text().splitlines()
            self.lineage = lineage_of(about)
        except (KeyError, ValueError, RuntimeError, OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"checkpoint {folder}", f"it does not hold this run's networks ({reason})", "Use another copy"
            ) from error

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a step changes, by name."""
        parts = {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "discriminator": self.discriminator.state_dict(),
            "generator_optimiser": _adam_tensors(self.generator_optimiser),
            "discriminator_optimiser": _adam_tensors(self.discriminator_optimiser),
        }
        return {f"{part}/{name}": value for part, tensors in parts.items() for name, value in tensors.items()}


def _under(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}/"): value for name, value in tensors.items() if name.startswith(f"{part}/")}


def _adam_tensors(optimiser: Adam) -> dict[str, Tensor]:
    """Return Adam's moments and counts as `<parameter number>/<name>`; empty before the first step."""
    state = optimiser.state_dict()["state"]
    return {f"{number}/{name}": value for number, entry in state.items() for name, value in entry.items()}


def _load_adam(optimiser: Adam, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split("/")
        # A fused Adam moves the counts of its steps to where it reads them. Others count on the CPU.
        state.setdefault(int(number), {})[name] = value.cpu() if name == "step" else value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
