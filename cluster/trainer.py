"""Training on a cluster: TorchTrainer around `metasr.training.fit`, tracked, and registered at the end."""

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import ray
import ray.train
import torch
from pyarrow.fs import FileSystem
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from cluster.config import JobConfig, TrackingConfig, expand
from cluster.provenance import code_version
from cluster.recipes import Resolved, flatten, run_name
from cluster.registry import Registry
from cluster.runtime import connected
from cluster.store import arrow_filesystem, open_store
from cluster.stream import read_index
from cluster.tracking import Run
from cluster.worker import train_worker
from metasr.config import ModelConfig
from metasr.errors import ConfigError, MetaSRError, TrainingError
from metasr.identity import RunIdentity
from metasr.inference.bundle import Bundle, load_bundle
from metasr.perceptual import check_perceptual
from metasr.training.loop import SELECTION_METRIC

VERSION_TAG = "metasr.version"


@dataclass(frozen=True)
class Trained:
    """What came of a run."""

    run_name: str
    run_id: str
    version: str
    already_done: bool


def train(resolved: Resolved[JobConfig], recipe: str, tell: Callable[[str], None], init_from: str = "") -> Trained:
    """Train what a config describes, or go on with it, and register the best generator.

    The same config on the same data is the same run: it continues from its newest checkpoint, and a finished run is
    left as it is.

    Args:
        resolved: The config and where its values came from.
        recipe: Name of the recipe, the first part of the run's name.
        tell: Called with lines of progress.
        init_from: Bundle whose weights to start from, as `Registry.locate` takes it; empty for random weights.

    Raises:
        MetaSRError: The settings, the data or the machines cannot be used, or training failed.
    """
    config = resolved.config
    initial = _load_initial(config, init_from) if init_from else None
    identity = _preflight(config, recipe, initial)
    tell(f"run {identity.run_name}, code {identity.code_version[:12]}")
    if initial is not None:
        tell(f"starting from the weights of {init_from}, run {initial.about['run_name']}")
    if not config.loss.perceptual:
        tell("loss.perceptual is 0: training without the perceptual loss")
    tags = {
        "mlflow.source.git.commit": identity.code_version.removesuffix("+changes"),
        "metasr.code_version": identity.code_version,
        "metasr.data_sha256": identity.data_digest,
        "metasr.initial_bundle": identity.initial_bundle,
    }
    run = Run.start(config.tracking, identity.run_name, flatten(config), tags)
    if (version := run.tags().get(VERSION_TAG)) is not None:
        run.finish("FINISHED")
        return Trained(identity.run_name, run.run_id, version, already_done=True)
    run.text("recipe.yaml", resolved.text() + "\n")
    try:
        result = _fit_on_ray(config, identity, initial, run, tell)
        version = _register_best(result, config, run)
    except KeyboardInterrupt:
        run.finish("KILLED")
        raise
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish("FINISHED")
    return Trained(identity.run_name, run.run_id, version, already_done=False)


def _load_initial(config: JobConfig, reference: str) -> Bundle:
    """Return the bundle to start from, whose network must be the one that `config` describes."""
    with tempfile.TemporaryDirectory() as download:
        folder = Registry(config.tracking).locate(reference, Path(download)).folder
        bundle = load_bundle(folder, torch.device("cpu"))
    theirs = ModelConfig.model_validate(bundle.about["config"]["model"])
    for name, ours in config.model:
        if getattr(theirs, name) != ours:
            raise ConfigError(
                f"cannot start from {reference}",
                f"its model.{name} is {getattr(theirs, name)}, not {ours}",
                "Train the same network, or start from random weights",
            )
    return bundle


def _preflight(config: JobConfig, recipe: str, initial: Bundle | None) -> RunIdentity:
    """Find what would stop the workers before they are started."""
    if not config.data.url:
        raise ConfigError(
            "data.url is not set", "there is nothing to train on", "Give --data.url, see `metasr prepare`"
        )
    if config.train.batch_size % config.resources.num_workers:
        raise ConfigError(
            f"train.batch_size {config.train.batch_size}",
            f"it is not a multiple of resources.num_workers {config.resources.num_workers}",
            "Change one of them",
        )
    check_perceptual(config.loss)
    store = open_store(config.data.url)
    digest = read_index(store).digest()
    start = initial.digest if initial else ""
    return RunIdentity(run_name(config, recipe, digest, start), code_version(), store.url, digest, start)


def _fit_on_ray(
    config: JobConfig, identity: RunIdentity, initial: Bundle | None, run: Run, tell: Callable[[str], None]
) -> Result:
    resources = config.resources
    worker = {"CPU": resources.cpus_per_worker} | ({"GPU": 1} if resources.gpu else {})
    portable = config.model_dump(mode="json")
    portable["data"]["url"] = identity.data_url
    if config.loss.vgg_weights is not None:
        portable["loss"]["vgg_weights"] = expand(str(config.loss.vgg_weights))
    with (
        connected(cpus=resources.num_workers * resources.cpus_per_worker),
        _tracker(config.tracking, run.run_id, config.train.steps, tell) as tracker,
    ):
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={
                "config": portable,
                "identity": asdict(identity),
                "tracker": tracker,
                "initial_weights": ray.put(initial.generator.state_dict() if initial else None),
            },
            scaling_config=ScalingConfig(
                num_workers=resources.num_workers, use_gpu=resources.gpu, resources_per_worker=worker
            ),
            run_config=RunConfig(
                name=identity.run_name,
                **_storage(config.storage.url),
                failure_config=FailureConfig(max_failures=resources.max_failures),
                checkpoint_config=CheckpointConfig(
                    num_to_keep=config.train.keep_checkpoints, checkpoint_score_attribute=SELECTION_METRIC
                ),
            ),
        )
        try:
            return _fit_in_thread(trainer)
        except TrainingFailedError as error:
            raise _cause(error) from error
        except RayError as error:
            raise _failed(error) from error


def _fit_in_thread(trainer: TorchTrainer) -> Result:
    """Fit in a thread of its own: in the main thread Ray Train takes Ctrl-C for itself, and exits as if it failed."""
    outcome: Future[Result] = Future()

    def fit() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()
    return outcome.result()


def _storage(url: str) -> dict[str, str | FileSystem]:
    location = expand(url)
    if location.startswith("s3://"):
        return {"storage_filesystem": arrow_filesystem(), "storage_path": location.removeprefix("s3://")}
    return {"storage_path": location}


def _cause(error: TrainingFailedError) -> MetaSRError:
    """Return the error of the worker that failed first, in one line."""
    failures = getattr(error, "worker_failures", {})
    for rank in sorted(failures):
        cause = getattr(failures[rank], "cause", failures[rank])
        if isinstance(cause, MetaSRError):
            return cause
    return _failed(next(iter(failures.values()), error))


def _failed(error: BaseException) -> TrainingError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return TrainingError(
        "training failed", reason, "Run the same command again to continue; --debug shows the traceback"
    )


def _register_best(result: Result, config: JobConfig, run: Run) -> str:
    checkpoint = result.get_best_checkpoint(SELECTION_METRIC, "max")
    with checkpoint.as_directory() as folder:
        version = Registry(config.tracking).register(Path(folder) / "bundle", run)
    run.tag(VERSION_TAG, version)
    return version


class Tracker:
    """Takes what the workers log: to MLflow, and as lines for the person who waits.

    It runs as an actor beside the driver, so that no worker waits for MLflow, a restarted worker finds it again, and
    a database file needs to be reachable from one machine only.
    """

    def __init__(self, config: TrackingConfig, run_id: str, num_steps: int) -> None:
        self._run = Run(config, run_id)
        self._num_steps = num_steps
        self._lines: list[str] = []

    def log(self, step: int, metrics: Mapping[str, float], pictures: Mapping[str, bytes]) -> None:
        """Record a step."""
        self._run.log(step, metrics, pictures)
        if "resumed_at_step" in metrics:
            text = "resumed from the checkpoint of this step"
        elif "loss_total" in metrics:
            text = f"loss {metrics['loss_total']:.4f}  {metrics['steps_per_s']:.2f} steps/s"
        else:
            text = f"validation: {metrics['val_psnr_gain']:+.2f} dB over bicubic; checkpoint"
        self._lines.append(f"step {step}/{self._num_steps}  {text}")

    def take_lines(self) -> list[str]:
        """Return the lines since the last call."""
        lines, self._lines = self._lines, []
        return lines


@contextmanager
def _tracker(
    config: TrackingConfig, run_id: str, num_steps: int, tell: Callable[[str], None]
) -> Iterator[ActorHandle]:
    """Run a Tracker on the driver's node and pass its lines on until the block ends."""
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    actor = ray.remote(Tracker).options(num_cpus=0, scheduling_strategy=here).remote(config, run_id, num_steps)
    finished = threading.Event()

    def pass_on() -> None:
        for line in ray.get(actor.take_lines.remote()):
            tell(line)

    def poll() -> None:
        while not finished.wait(1.0):
            pass_on()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        finished.set()
        thread.join()
        pass_on()
        ray.kill(actor)
