"""Before a training: whether MLflow will take what it is going to be told."""

from collections.abc import Callable
from concurrent.futures import TimeoutError as LateError

from cluster.config import TrackingConfig
from cluster.redaction import without_password
from cluster.registry import Registry
from cluster.runtime.threads import in_daemon_thread
from cluster.tracking import explained, require_experiment
from metasr.errors import ConfigError, StoreError

SERVER_S, DATABASE_S = 20.0, 60.0
"""How long an answer may take: of a server, and of a database, in which MLflow makes its tables the first time."""


def require_access(config: TrackingConfig, tell: Callable[[str], None], *, deadline_s: float | None = None) -> None:
    """Make the experiment and the model in MLflow, where they are missing, and change both as a run will.

    An MLflow that is away stops nobody: the run's records wait in its outbox.

    Args:
        config: Where MLflow is, and the name of the model.
        tell: Told that MLflow is away.
        deadline_s: How long that may take; by default, what a server or a database needs.

    Raises:
        StoreError: It refuses the user.
        ConfigError: It refuses the name of the model.
    """
    deadline_s = deadline_s or (SERVER_S if config.uri.startswith(("http://", "https://")) else DATABASE_S)
    asked = in_daemon_thread(lambda: _ask(config), "mlflow access")
    try:
        asked.result(deadline_s)
        return
    except LateError:
        why = f"MLflow at {without_password(config.uri)}: no answer within {deadline_s:g} s"
    except StoreError as error:
        if getattr(error.__cause__, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            raise
        why = str(error)
    tell(f"{why.rstrip('.')}. Training goes on: what MLflow is to get waits in {config.spool}")


def _ask(config: TrackingConfig) -> None:
    from mlflow.exceptions import MlflowException

    registry = Registry(config)
    with explained(config.uri):
        try:
            registry.require_model()
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise ConfigError(
                f"tracking.model {config.model}", error.message, "Choose a name without / and :"
            ) from error
        require_experiment(registry.client, config)
