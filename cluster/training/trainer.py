"""Ray Train's trainer, with torch imported in the workers alone, and fewer actors on a Ray of our own.

Ray Train's controller starts the workers, so each start waits for its imports. It needs torch only for the type of
the backend's settings, for which there is another one here.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.util import TrainingFramework
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

LEAVE_S = 30.0


@dataclass
class TorchInWorkers(BackendConfig):
    """What Ray Train's TorchConfig is, without torch.

    Attributes:
        backend: nccl or gloo.
    """

    backend: str

    @property
    def backend_cls(self) -> type[Backend]:
        """What sets up the workers."""
        return _TorchBackend

    @property
    def train_func_context(self) -> Any:
        """What surrounds the function of a worker."""
        from ray.train.torch import TorchConfig

        return TorchConfig().train_func_context

    @property
    def framework(self) -> TrainingFramework:
        """The framework that workers use."""
        return TrainingFramework.TORCH


class _TorchBackend(Backend):
    """Ray Train's own, which the workers call here."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Have the workers join a process group."""
        address, port = worker_group.execute_single(0, get_address_and_port)
        size = len(worker_group)
        where = {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
        joined = [
            worker_group.execute_single_async(rank, _join, backend_config.backend, where, rank, size)
            for rank in range(size)
        ]
        ray.get(joined)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Have the workers leave it."""
        with suppress(GetTimeoutError):  # Ray ends the workers next
            ray.get(worker_group.execute_async(_leave, len(worker_group) > 1), timeout=LEAVE_S)


def _join(backend: str, where: dict[str, str], rank: int, size: int) -> None:
    from ray.train.torch import config

    os.environ.update(where)
    config._set_torch_distributed_env_vars()
    config._setup_torch_process_group(backend, rank, size, "env://")


def _leave(is_group: bool) -> None:
    from ray.train.torch import config

    config._shutdown_torch(destroy_process_group=is_group)


class _FixedHere(FixedScalingPolicy):
    """A fixed number of workers on a Ray of our own, where nobody adds machines, and so none are asked for."""

    def after_controller_start(self, train_run_context: object) -> None:
        """Do nothing."""

    def _maybe_send_resource_request(self) -> None:
        pass


class Trainer(DataParallelTrainer):
    """A trainer without Ray Data, which would cost a process, and an import in each worker, at each start.

    On a Ray of our own, which ends with the driver, nobody has to clean up after it.

    Args:
        is_own_ray: Whether this process has started Ray.
        options: See DataParallelTrainer.
    """

    def __init__(self, *arguments: Any, is_own_ray: bool, **options: Any) -> None:
        self._is_own_ray = is_own_ray
        super().__init__(*arguments, **options)

    def _create_default_callbacks(self) -> list[Any]:
        left_out = (DatasetsCallback, PlacementGroupCleanerCallback) if self._is_own_ray else (DatasetsCallback,)
        callbacks: list[Any] = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, left_out)]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        if self._is_own_ray and type(options["scaling_policy"]) is FixedScalingPolicy:
            options["scaling_policy"] = _FixedHere(options["scaling_policy"].scaling_config)
        return super()._initialize_and_run_controller(**options)
