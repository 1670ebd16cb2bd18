"""MLflow from one place: runs, metrics, pictures and files."""

import hashlib
import io
import json
import logging
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from cluster.config import TrackingConfig, expand
from cluster.redaction import one_line, without_password
from metasr.errors import StoreError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

RUN_KEY = "metasr.run_key"
# With it, MLflow's page of the experiment opens as one of model training, with runs and charts.
EXPERIMENT_KIND, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
WRITABLE = "metasr.writable"
"""Tag of an experiment and a model that says nothing: to set it needs the right to."""
VERSION_TAG = "metasr.version"
"""Tag of a run: the version of the model that it was registered as."""
MAX_BATCH = 1000
PREVIEW_PX = 256
log = logging.getLogger(__name__)


def connect(config: TrackingConfig) -> "MlflowClient":
    """Return a client for the tracking server or database that `config` names.

    Raises:
        StoreError: It cannot be reached.
    """
    # An unreachable server is to be reported within seconds, not after minutes. And mlflow would repeat requests
    # whose answer was lost, which makes two runs or two versions.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    for name in ("alembic", "mlflow.pyfunc", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    uri = expand(config.uri)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with explained(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


class Run:
    """A run in MLflow; the same name is the same run, however often it is started.

    Args:
        config: Where MLflow is.
        run_id: Of a run that `find_or_make` made.
    """

    def __init__(self, config: TrackingConfig, run_id: str) -> None:
        self.run_id, self._uri = run_id, expand(config.uri)
        self._client = connect(config)

    @classmethod
    def find_or_make(cls, config: TrackingConfig, name: str, params: Mapping[str, Any], time_ms: int) -> "Run":
        """Find the run of this name, or make it as one that started then. Its params are those it was made with."""
        from mlflow.entities import Param

        client = connect(config)
        with explained(expand(config.uri)):
            experiment = _experiment_id(client, config)
            key = hashlib.sha256(name.encode()).hexdigest()  # a filter cannot hold every name
            found = _runs_of(client, experiment, key)
            if not found:
                client.create_run(experiment, run_name=name, tags={RUN_KEY: key}, start_time=time_ms)
                found = _runs_of(client, experiment, key)
            run, *copies = found
            for copy in copies:  # made by a request whose answer was lost
                if not copy.data.metrics and not copy.data.params:
                    client.delete_run(copy.info.run_id)
            if not run.data.params:
                client.log_batch(
                    run.info.run_id, params=[Param(key, json.dumps(value)) for key, value in params.items()]
                )
        return cls(config, run.info.run_id)

    def resume(self, tags: Mapping[str, str]) -> None:
        """Say that it is running, and set tags."""
        from mlflow.entities import RunStatus, RunTag

        # No public call takes an end back. In MLflow's own messages, 0 is none.
        store = self._client._tracking_client.store
        store.update_run_info(self.run_id, RunStatus.RUNNING, 0, None)
        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics of a step. A server that fails is reported in the log, never raised."""
        from mlflow.exceptions import MlflowException

        now = now_ms()
        try:
            self.points([(name, value, now, step) for name, value in metrics.items()])
        except (MlflowException, OSError) as error:
            log.warning("MLflow did not take step %d: %s", step, one_line(error))

    def points(self, points: Sequence[tuple[str, float, int, int]]) -> None:
        """Record metrics: name, value, time in ms, step. The same point twice is one point."""
        from mlflow.entities import Metric

        for first in range(0, len(points), MAX_BATCH):
            self._client.log_batch(
                self.run_id, metrics=[Metric(*point) for point in points[first : first + MAX_BATCH]]
            )

    def picture(self, step: int, name: str, png: bytes, time_ms: int) -> None:
        """Record a PNG picture under the names that MLflow's page looks for; the same one twice is one picture.

        Raises:
            ValueError: It is damaged.
        """
        safe = re.sub(r"[^a-zA-Z0-9_\-. ]", "~", name)
        same = uuid.uuid5(uuid.NAMESPACE_OID, f"{self.run_id}/{name}/{step}")
        stem = f"{safe}+step+{step}+timestamp+{time_ms}+{same}"
        with tempfile.TemporaryDirectory() as folder:
            full, small = Path(folder) / f"{stem}.png", Path(folder) / f"{stem}+compressed.webp"
            full.write_bytes(png)
            try:
                preview = Image.open(io.BytesIO(png))
                preview.thumbnail((PREVIEW_PX, PREVIEW_PX))
            except OSError as error:  # so Pillow says that it is damaged
                raise ValueError(f"picture {name} of step {step}: {error}") from error
            preview.save(small)
            for path in (full, small):
                self._client.log_artifact(self.run_id, str(path), "images")
        self._client.set_tag(self.run_id, "mlflow.loggedImages", "True")

    def text(self, name: str, content: str) -> None:
        """Keep a text as an artifact."""
        self._client.log_text(self.run_id, content, name)

    def folder(self, name: str, path: Path) -> str:
        """Keep a folder as an artifact and return the URI it can be fetched from."""
        self._client.log_artifacts(self.run_id, str(path), name)
        return f"{self._client.get_run(self.run_id).info.artifact_uri}/{name}"

    def tag(self, name: str, value: str) -> None:
        """Set a tag."""
        self._client.set_tag(self.run_id, name, value)

    def history(self, prefixes: tuple[str, ...]) -> dict[str, list[tuple[int, float]]]:
        """Return the values of the metrics whose names begin so, by step; of values of the same step the last.

        Raises:
            StoreError: MLflow cannot be reached.
        """
        with explained(self._uri):
            names = sorted(
                name for name in self._client.get_run(self.run_id).data.metrics if name.startswith(prefixes)
            )
            points = {name: self._client.get_metric_history(self.run_id, name) for name in names}
        return {
            name: sorted({one.step: one.value for one in sorted(found, key=lambda one: one.timestamp)}.items())
            for name, found in points.items()
        }

    def tags(self) -> dict[str, str]:
        """Return all tags."""
        return dict(self._client.get_run(self.run_id).data.tags)

    def status(self) -> str:
        """Return how it is: RUNNING, FINISHED, FAILED or KILLED."""
        return str(self._client.get_run(self.run_id).info.status)

    def finish(self, status: str, time_ms: int | None = None) -> None:
        """Say how it ended, and when: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self.run_id, status, time_ms)


def _runs_of(client: "MlflowClient", experiment: str, key: str) -> list["MlflowRun"]:
    """Return the runs with a key, the one to use first: one that has something, and always the same."""
    found = client.search_runs([experiment], f"tags.`{RUN_KEY}` = '{key}'", max_results=100)
    return sorted(found, key=lambda run: (not run.data.params and not run.data.metrics, run.info.run_id))


def require_experiment(client: "MlflowClient", config: TrackingConfig) -> None:
    """Make the experiment if it is missing, and change it in a way that nobody sees, as whoever makes runs must.

    Raises:
        MlflowException: MLflow refuses.
    """
    client.set_experiment_tag(_experiment_id(client, config), WRITABLE, "yes")


def id_of_run(client: "MlflowClient", config: TrackingConfig, name: str) -> str:
    """Return the id of the run of this name; empty if there is none."""
    experiment = client.get_experiment_by_name(config.experiment)
    key = hashlib.sha256(name.encode()).hexdigest()
    found = _runs_of(client, experiment.experiment_id, key) if experiment else []
    return str(found[0].info.run_id) if found else ""


def now_ms() -> int:
    """Return the milliseconds since 1970, as MLflow counts them."""
    return time.time_ns() // 1_000_000


def _experiment_id(client: "MlflowClient", config: TrackingConfig) -> str:
    found = client.get_experiment_by_name(config.experiment)
    if found is not None:
        return str(found.experiment_id)
    is_server = config.uri.startswith(("http://", "https://"))
    place = expand(config.artifacts)
    location = None if is_server else place if "://" in place else Path(place).as_uri()
    kind = {EXPERIMENT_KIND: MODEL_TRAINING}
    return str(client.create_experiment(config.experiment, artifact_location=location, tags=kind))


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into one line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        raise StoreError(f"MLflow at {without_password(uri)}", one_line(error)[:200], _what_to_do(error)) from error


def _what_to_do(error: Exception) -> str:
    match getattr(error, "error_code", ""):
        case "UNAUTHENTICATED":
            return "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to those of your user there"
        case "PERMISSION_DENIED":
            return "Ask who runs it for the permission, or set MLFLOW_TRACKING_USERNAME to a user who has it"
    return "Check tracking.uri and that the server is up"
