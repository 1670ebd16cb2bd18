"""The MLflow server of a team, where everyone has a password, and a PostgreSQL server to put it on."""

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.cluster.tracked import MlflowServer, empty_database
from tests.patience import PATIENCE_S

# MLflow takes no password of less than 12 characters, and tenths of a second to verify one, which it need not repeat.
PASSWORDS = {user: f"hush-{user}-0123" for user in ("admin", "trainer", "guest")}
SETTINGS = """
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = {database}
admin_username = admin
admin_password = {password}
auth_cache_ttl_seconds = 600
"""


class TeamServer(MlflowServer):
    """A server that asks for passwords; its users are an administrator, a trainer and a guest, who may see nothing.

    Args:
        folder: For all that is not in databases.
        database: Returns the URL of an empty database by a name.
    """

    def __init__(self, folder, database):
        settings = folder / "auth.ini"
        settings.write_text(SETTINGS.format(database=database("users"), password=PASSWORDS["admin"]))
        environment = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test"}
        super().__init__(folder, database("runs"), ["--app-name=basic-auth"], environment)
        try:
            for user in ("trainer", "guest"):
                self._administrate("2.0/mlflow/users/create", username=user, password=PASSWORDS[user])
        except BaseException:
            self.kill()
            raise

    def allow(self, user, kind, name, permission):
        """Give a user a permission, such as READ, on an `experiment` or a `registered_model`."""
        about = {"username": user, "resource_type": kind, "resource_id": name, "permission": permission}
        self._administrate("3.0/mlflow/users/permissions/grant", **about)

    def _administrate(self, endpoint, **arguments):
        """Tell MLflow, as the administrator; its own client for this imports the whole server."""
        url, admin = f"{self.uri}/api/{endpoint}", ("admin", PASSWORDS["admin"])
        requests.post(url, json=arguments, auth=admin, timeout=60).raise_for_status()


def sqlite(folder):
    """Return what gives the URL of a database in a folder by its name: `runs` has MLflow's tables already."""
    return lambda name: empty_database(folder / "runs.db") if name == "runs" else f"sqlite:///{folder}/{name}.db"


@contextmanager
def logged_in(user, password=""):
    """Be a user, with the right password if none is given, or nobody."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
            environment.delenv(name, raising=False)
        if user:
            environment.setenv("MLFLOW_TRACKING_USERNAME", user)
            environment.setenv("MLFLOW_TRACKING_PASSWORD", password or PASSWORDS[user])
        yield


@contextmanager
def postgresql():
    """Run PostgreSQL at a socket in a folder of its own; the value makes a database and returns its URL."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if programs is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    # It refuses to be root, and another user does not come into pytest's folders.
    owner = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="metasr-") as folder:
        if owner:
            os.chmod(folder, 0o711)
        place = Path(folder) / "place"
        place.mkdir(mode=0o700)

        def call(program, *arguments):
            command = [programs / program, *arguments]
            subprocess.run(command, check=True, cwd=place, stdout=subprocess.DEVNULL, timeout=PATIENCE_S, **owner)

        def database(name):
            call("createdb", f"--host={place}", "--username=postgres", name)
            return f"postgresql+psycopg2://postgres@/{name}?host={place}"

        if owner:
            shutil.chown(place, "postgres", "postgres")
        data = place / "data"
        call("initdb", "--no-sync", "--auth=trust", "--username=postgres", f"--pgdata={data}")
        options = f"-c listen_addresses='' -c unix_socket_directories={place} -c fsync=off"
        call("pg_ctl", "start", "--wait", f"--pgdata={data}", f"--log={place}/log", f"--options={options}")
        try:
            yield database
        finally:
            call("pg_ctl", "stop", "--mode=immediate", f"--pgdata={data}")
