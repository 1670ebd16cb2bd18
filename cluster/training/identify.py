"""What a run is made from, determined once: settings, data, name and initial weights."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import torch

from cluster.checkpoints.begun import Begun
from cluster.checkpoints.fork import Fork, require_same_network
from cluster.checkpoints.run import LEDGER
from cluster.config import JobConfig, check_workers
from cluster.preflight import require
from cluster.preflight.services import Data
from cluster.recipes import Resolved
from cluster.registry import Registry
from cluster.runtime.code_version import code_version
from cluster.shards import Index, data_store
from cluster.store import open_store, wait_for_store, wait_while_busy
from cluster.stream import read_index
from cluster.training.naming import stored_run_name
from cluster.training.precision import Precision, choose_precision
from cluster.training.traits import traits
from metasr.errors import ConfigError
from metasr.identity import RunIdentity
from metasr.inference.bundle import Bundle, load_bundle
from metasr.perceptual import check_perceptual

Tell = Callable[[str], None]


@dataclass(frozen=True)
class RunSpec:
    """What to train, as requested.

    Attributes:
        resolved: The settings, and where each value came from.
        recipe: Name of the recipe, the first part of the run's name.
        init_from: Bundle with the initial weights, see `Registry.locate`; empty for random weights.
        fork: Checkpoint of another run in the same storage to start from instead.
        data_digest: SHA-256 of the data's index, to use that version; empty for the newest.
        begun: The run to resume, and no other; None for the one that the settings name.
    """

    resolved: Resolved[JobConfig]
    recipe: str
    init_from: str = ""
    fork: Fork | None = None
    data_digest: str = ""
    begun: Begun | None = None

    @classmethod
    def resumed(cls, resolved: Resolved[JobConfig], begun: Begun) -> Self:
        """Return what a run that has begun goes on with.

        Args:
            resolved: Its settings.
            begun: The run.
        """
        fork = Fork.parse(begun.forked_from) if begun.forked_from else None
        return cls(resolved, f"{begun.recipe}.yaml", fork=fork, data_digest=begun.data_digest, begun=begun)

    @property
    def config(self) -> JobConfig:
        """The settings."""
        return self.resolved.config


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start.

    Attributes:
        spec: What was requested.
        identity: What it is made from.
        data: Its data set.
        initial: Bundle with the initial weights; None for random ones, or a fork.
    """

    spec: RunSpec
    identity: RunIdentity
    data: Data
    initial: Bundle | None = None

    @property
    def config(self) -> JobConfig:
        """The settings."""
        return self.spec.config

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.identity.run_name


def prepare(spec: RunSpec, tell: Tell, *, waits: bool = True) -> Prepared:
    """Determine what a run is made from, check the stores that it needs, and tell.

    Args:
        spec: What to train.
        tell: Called with lines of progress.
        waits: Wait for a store that is away after it has answered once, instead of raising UnavailableError.

    Raises:
        MetaSRError: The settings, the data or a store cannot be used.
    """
    if spec.fork is not None:
        spec.fork.require_steps(spec.config.train.steps)
    initial = load_initial(spec)
    spec = settled(spec, initial, tell)
    identity = identify(spec, initial, tell)
    tell(f"run {identity.run_name}, code {identity.code_version[:12]}")
    if spec.fork is not None:
        tell(f"branching off from run {spec.fork.run_name} at step {spec.fork.step}")
    if initial is not None:
        tell(f"starting from the weights of {spec.init_from}, run {initial.about['run_name']}")
    if not spec.config.loss.perceptual:
        tell("loss.perceptual is 0: training without the perceptual loss")
    check = partial(require, spec.config, tell)
    data = wait_for_store(open_store(spec.config.storage.url), check, tell) if waits else check()
    return Prepared(spec, identity, data, initial)


def load_initial(spec: RunSpec) -> Bundle | None:
    """Return the bundle with the initial weights, after a check that its network fits; None without one."""
    if not spec.init_from:
        return None
    with tempfile.TemporaryDirectory() as download:
        registry = Registry(spec.config.tracking, spec.config.storage.url)
        folder = registry.locate(spec.init_from, Path(download)).folder
        bundle = load_bundle(folder, torch.device("cpu"))
    require_same_network(bundle.about["config"]["model"], spec.config, f"start from {spec.init_from}")
    return bundle


def identify(spec: RunSpec, initial: Bundle | None = None, tell: Tell = lambda line: None) -> RunIdentity:
    """Return what the run is made from, after a check of what would stop its workers.

    Args:
        spec: The run.
        initial: Bundle with the initial weights.
        tell: Called with a line if the run continues under its former name.

    Raises:
        MetaSRError: The settings, the data or the storage cannot be used.
    """
    config, index, begun = spec.config, _check_data(spec, tell), spec.begun
    digest = index.digest()
    bundle, branch = initial.digest if initial else "", str(spec.fork) if spec.fork else ""
    if begun is not None:
        bundle = begun.initial_bundle
    storage = open_store(config.storage.url)
    name = wait_while_busy(
        storage, lambda: stored_run_name(config, spec.recipe, digest, bundle or branch, tell), tell
    )
    if begun is not None and name != begun.run_name:
        raise ConfigError(
            f"run {begun.run_name}",
            f"with what its checkpoint and this machine say it would be {name}",
            "Check loss.vgg_weights and the version of metasr, or give the settings that it began with",
        )
    url = open_store(config.data.url).url
    return RunIdentity(name, code_version(), url, digest, bundle, branch, traits(index))


def settled(spec: RunSpec, initial: Bundle | None = None, tell: Tell = lambda line: None) -> RunSpec:
    """Return the run with `train.precision: auto` resolved, which its name depends on.

    Args:
        spec: The run.
        initial: Bundle with the initial weights.
        tell: Called with a line on the choice.

    Raises:
        MetaSRError: The settings, the data, the storage or the cluster cannot be used.
    """
    if spec.config.train.precision != "auto":
        return spec
    digest, storage = _check_data(spec, tell).digest(), open_store(spec.config.storage.url)
    start = initial.digest if initial else str(spec.fork or "")

    def exists(precision: Precision) -> bool:
        name = stored_run_name(with_precision(spec.resolved, precision).config, spec.recipe, digest, start)
        return storage.exists(f"{name}/{LEDGER}")

    def is_started(precision: Precision) -> bool:
        return wait_while_busy(storage, lambda: exists(precision), tell)

    precision = choose_precision(spec.config, is_started, tell)
    return replace(spec, resolved=with_precision(spec.resolved, precision))


def with_precision(resolved: Resolved[JobConfig], precision: Precision) -> Resolved[JobConfig]:
    """Return the settings with a precision instead of auto."""
    train = resolved.config.train.model_copy(update={"precision": precision})
    origins = resolved.origins | {"train.precision": f"auto ({resolved.origins['train.precision']})"}
    return Resolved(resolved.config.model_copy(update={"train": train}), origins)


def _check_data(spec: RunSpec, tell: Tell) -> Index:
    """Return the data's index, after a check of what would stop the workers."""
    check_workers(spec.config)
    data = data_store(spec.config.data.url)
    check_perceptual(spec.config.loss)
    return wait_while_busy(data, lambda: read_index(data, spec.data_digest), tell)
