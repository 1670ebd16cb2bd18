"""MLflow from one place: runs, metrics, pictures and files."""

import hashlib
import io
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from cluster.config import TrackingConfig, expand
from metasr.errors import StoreError

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_KEY = "metasr.run_key"
log = logging.getLogger(__name__)


def connect(config: TrackingConfig) -> "MlflowClient":
    """Return a client for the tracking server or database that `config` names.

    Raises:
        StoreError: It cannot be reached.
    """
    # Read when mlflow is imported. An unreachable server is to be reported within seconds, not after minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    uri = expand(config.uri)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with _explained(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


class Run:
    """A run in MLflow; the same name is the same run, however often it is started.

    Args:
        config: Where MLflow is.
        run_id: Of a run that `start` made.
    """

    def __init__(self, config: TrackingConfig, run_id: str) -> None:
        self.run_id = run_id
        self._client = connect(config)

    @classmethod
    def start(cls, config: TrackingConfig, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> "Run":
        """Find the run of this name or make it, and say that it is running."""
        from mlflow.entities import Param, RunTag

        client = connect(config)
        with _explained(expand(config.uri)):
            experiment = _experiment_id(client, config)
            key = hashlib.sha256(name.encode()).hexdigest()  # a filter cannot hold every name
            found = client.search_runs([experiment], f"tags.`{RUN_KEY}` = '{key}'", max_results=1)
            if found:
                run_id = found[0].info.run_id
                client.update_run(run_id, status="RUNNING")
            else:
                run_id = client.create_run(experiment, run_name=name, tags={RUN_KEY: key}).info.run_id
            client.log_batch(
                run_id,
                params=[Param(key, json.dumps(value)) for key, value in params.items()] if not found else [],
                tags=[RunTag(key, value) for key, value in tags.items()],
            )
        return cls(config, run_id)

    def log(self, step: int, metrics: Mapping[str, float], pictures: Mapping[str, bytes] | None = None) -> None:
        """Record metrics and PNG pictures of a step. A server that fails is reported in the log, never raised."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now = time.time_ns() // 1_000_000
        try:
            points = [Metric(name, value, now, step) for name, value in metrics.items() if name != "step"]
            self._client.log_batch(self.run_id, metrics=points)
            for name, png in (pictures or {}).items():
                self._client.log_image(self.run_id, Image.open(io.BytesIO(png)), key=name, step=step)
        except (MlflowException, OSError) as error:
            log.warning("MLflow did not take step %d: %s", step, str(error).splitlines()[0])

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

    def tags(self) -> dict[str, str]:
        """Return all tags."""
        return dict(self._client.get_run(self.run_id).data.tags)

    def finish(self, status: str) -> None:
        """Say how it ended: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self.run_id, status)


def _experiment_id(client: "MlflowClient", config: TrackingConfig) -> str:
    found = client.get_experiment_by_name(config.experiment)
    if found is not None:
        return str(found.experiment_id)
    is_server = config.uri.startswith(("http://", "https://"))
    place = expand(config.artifacts)
    location = None if is_server else place if "://" in place else Path(place).as_uri()
    return str(client.create_experiment(config.experiment, artifact_location=location))


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into one line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        reason = _without_password(str(error).splitlines()[0])[:200]
        raise StoreError(
            f"MLflow at {_without_password(uri)}", reason, "Check tracking.uri and that the server is up"
        ) from error


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)
