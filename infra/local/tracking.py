"""MLflow's server with passwords: nobody registers himself, and whoever has an account may see nothing at first."""

import base64
import json
import urllib.error
import urllib.request
from contextlib import suppress

from infra.local import database
from infra.local.stack import MLFLOW_BUCKET, Stack, StackError, program, write_private

ANSWER_S = 60
ACCESS = """[mlflow]
default_permission = NO_PERMISSIONS
database_uri = {database}
admin_username = admin
admin_password = {password}
"""


def prepare(stack: Stack) -> None:
    """Write who administrates, and where accounts are kept."""
    settings = ACCESS.format(database=database.uri(stack, "users"), password=stack.secrets["mlflow_admin"])
    write_private(stack.place("mlflow") / "auth.ini", settings)


def command(stack: Stack) -> list[str]:
    """Return the command of the server; what is secret, or long, is in its environment."""
    port = stack.ports["mlflow"]
    hosts = f"--allowed-hosts=127.0.0.1:{port},localhost:{port}"
    network = ["--host=127.0.0.1", f"--port={port}", hosts, "--workers=1"]
    return [program("mlflow") or "mlflow", "server", "--app-name=basic-auth", *network]


def environment(stack: Stack) -> dict[str, str]:
    """Return the variables of the server."""
    return {
        **stack.s3("mlflow"),
        "MLFLOW_BACKEND_STORE_URI": database.uri(stack, "runs"),
        "MLFLOW_ARTIFACTS_DESTINATION": f"{stack.bucket(MLFLOW_BUCKET)}/artifacts",
        "MLFLOW_AUTH_CONFIG_PATH": str(stack.place("mlflow") / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": stack.secrets["mlflow_session"],
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "OMP_NUM_THREADS": "1",
    }


def healthy(stack: Stack) -> bool:
    """Return whether the server answers."""
    try:
        with urllib.request.urlopen(f"{stack.url('mlflow')}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def furnish(stack: Stack) -> None:
    """Make the account of those who train, unless it is there."""
    account = {"username": "trainer", "password": stack.secrets["mlflow_trainer"]}
    try:
        administrate(stack, "POST", "users/create", account)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 400 or b"RESOURCE_ALREADY_EXISTS" not in error.read():
                raise StackError(
                    f"MLflow does not take its administrator's password of secrets.json ({error})"
                ) from None


def change_passwords(stack: Stack, new: Stack) -> None:
    """Give both accounts their new passwords, while the old ones are still right.

    Raises:
        StackError: MLflow refuses.
    """
    for user in ("trainer", "admin"):  # the administrator's own comes last: it opens the door for both
        about = {"username": user, "password": new.secrets[f"mlflow_{user}"]}
        about["current_password"] = stack.secrets[f"mlflow_{user}"]  # asked of those who change their own
        try:
            administrate(stack, "PATCH", "users/update-password", about)
        except urllib.error.HTTPError as error:
            with error:
                raise StackError(f"MLflow refuses a new password for {user}: {error.read()[:200]!r}") from None


def administrate(stack: Stack, method: str, endpoint: str, about: dict[str, str]) -> None:
    """Tell MLflow something as its administrator.

    Raises:
        HTTPError: It refuses.
    """
    word = base64.b64encode(f"admin:{stack.secrets['mlflow_admin']}".encode()).decode()
    headers = {"Authorization": f"Basic {word}", "Content-Type": "application/json"}
    url = f"{stack.url('mlflow')}/api/2.0/mlflow/{endpoint}"
    with (
        suppress(TimeoutError),
        urllib.request.urlopen(
            urllib.request.Request(url, json.dumps(about).encode(), headers, method=method), timeout=ANSWER_S
        ),
    ):
        return
    raise StackError(f"MLflow did not answer {endpoint} within {ANSWER_S} s: run the same command again")
