"""Records of an outbox, brought to MLflow: what each kind means there. Sent twice, they are there once."""

from collections.abc import Sequence
from pathlib import Path

from cluster.config import TrackingConfig
from cluster.outbox.head import Head
from cluster.outbox.record import Record
from cluster.outbox.sender import RefusedError
from cluster.redaction import one_line
from cluster.registry import Registry
from cluster.tracking import VERSION_TAG, Run
from metasr.errors import CheckpointError
from metasr.formats import FORMAT_KEY, require_format

PARENT_TAG = "mlflow.parentRunId"
SWEEP_TAG = "metasr.sweep"
NEVER_TAKEN = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


class MlflowDelivery:
    """Brings the records of a run to MLflow.

    Args:
        config: Where MLflow is.
        folder: The run's outbox, where its pictures and bundles are.
        run: The run in MLflow.
    """

    def __init__(self, config: TrackingConfig, folder: Path, run: Run) -> None:
        self._config, self._folder, self._run = config, folder, run

    def send(self, records: Sequence[Record]) -> None:
        """Send one record, or several of metrics.

        Raises:
            RefusedError: It can never succeed.
            FormatError: A later version of the program wrote it.
        """
        from mlflow.exceptions import MlflowException

        for record in records:
            require_format({FORMAT_KEY: record.format}, f"a record in {self._folder}")
        first = records[0]
        try:
            if first.kind == "metrics":
                self._run.points(
                    [
                        (name, value, record.time_ms, record.payload["step"])
                        for record in records
                        for name, value in record.payload["values"].items()
                    ]
                )
            else:
                self._send_one(first)
        except MlflowException as error:
            if error.error_code in NEVER_TAKEN:
                raise RefusedError(one_line(error)) from error
            raise
        except (CheckpointError, KeyError, ValueError, TypeError) as error:
            raise RefusedError(one_line(error)) from error

    def status(self) -> str:
        """Return how the run is in MLflow, such as RUNNING."""
        return self._run.status()

    def finish(self, status: str) -> None:
        """Say how the run has ended, at a time that nobody knows: this one."""
        self._run.finish(status)

    def _send_one(self, record: Record) -> None:
        said = record.payload
        match record.kind:
            case "start":
                self._run.resume(said["tags"])
            case "picture":
                if (path := self._folder / said["file"]).is_file():  # else it was sent, just before a kill
                    self._run.picture(said["step"], said["key"], path.read_bytes(), record.time_ms)
            case "text":
                self._run.text(said["name"], said["content"])
            case "tag":
                self._run.tag(said["name"], said["value"])
            case "status" if said["status"] == "RUNNING":
                self._run.resume({})
            case "status":
                self._run.finish(said["status"], record.time_ms)
            case "register":
                self._register(self._folder / said["file"])
            case _:
                raise RefusedError(f"a record of kind {record.kind} is not known")

    def _register(self, bundle: Path) -> None:
        if bundle.is_dir():  # else it was registered, just before a kill
            registry = Registry(self._config)
            version = registry.register(bundle, self._run)
            self._run.tag(VERSION_TAG, version)
            if sweep := self._run.tags().get(SWEEP_TAG):
                registry.client.set_model_version_tag(self._config.model, version, SWEEP_TAG, sweep)


def deliver_to(config: TrackingConfig, folder: Path, head: Head) -> MlflowDelivery:
    """Find the run of an outbox in MLflow, or make it there, and return what brings records to it.

    Raises:
        StoreError: MLflow does not answer.
    """
    run = Run.find_or_make(config, head.name, head.params, head.time_ms)
    if head.parent:  # by name: its id is not known before MLflow has it
        run.tag(PARENT_TAG, Run.find_or_make(config, head.parent, {}, head.time_ms).run_id)
    return MlflowDelivery(config, folder, run)
