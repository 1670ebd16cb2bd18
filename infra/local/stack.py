"""What a stack keeps between starts: its folder, its ports, its secrets, and what stands behind each service."""

import importlib.util
import json
import os
import pwd
import random
import secrets
import shlex
import shutil
import socket
import subprocess
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUCKET, MLFLOW_BUCKET = "metasr", "mlflow"
SECRETS = (
    "s3_admin",
    "s3_trainer",
    "s3_mlflow",
    "database",
    "mlflow_admin",
    "mlflow_trainer",
    "mlflow_session",
    "ray",
)
USUAL_PORTS = {"s3": 8333, "mlflow": 5000, "ray": 6379, "dashboard": 8265, "prometheus": 9090}
NODE_PORTS = ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export", "runtime-env-agent")
OTHER_PORTS = ("master", "volume", "filer", "admin", "s3_metrics", "ray_client")
OTHER_PORTS += tuple(f"{node}_{port}" for node in ("head", "node") for port in NODE_PORTS)
PRIVATE = 0o600
Tell = Callable[[str], None]


class StackError(Exception):
    """Something the person who starts the stack can mend; one line says what and how."""


@dataclass(frozen=True)
class Stack:
    """One stack.

    Attributes:
        folder: For all that it keeps.
        ports: Port of each server, on loopback.
        secrets: By name; `SECRETS` lists them.
        database: `postgresql` or `sqlite`.
        storage: `seaweedfs` or `folder`.
    """

    folder: Path
    ports: Mapping[str, int]
    secrets: Mapping[str, str]
    database: str
    storage: str

    def place(self, name: str) -> Path:
        """Return a folder of the stack's own, made if it is missing."""
        place = self.folder / name
        place.mkdir(mode=0o700, exist_ok=True)
        return place

    def url(self, part: str) -> str:
        """Return the address of a server."""
        return f"http://127.0.0.1:{self.ports[part]}"

    def bucket(self, name: str) -> str:
        """Return where a bucket is: in S3, or a folder in its place."""
        return f"s3://{name}" if self.storage == "seaweedfs" else str(self.place("files") / name)

    def s3(self, user: str) -> dict[str, str]:
        """Return the variables that lead a user to S3."""
        if self.storage != "seaweedfs":
            return {}
        keys = {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": self.secrets[f"s3_{user}"]}
        return {"AWS_ENDPOINT_URL": self.url("s3"), "AWS_REGION": "us-east-1", **keys}

    def client(self) -> dict[str, str]:
        """Return the variables of those who work with the stack, on the least of permissions."""
        return {
            **self.s3("trainer"),
            "MLFLOW_TRACKING_USERNAME": "trainer",
            "MLFLOW_TRACKING_PASSWORD": self.secrets["mlflow_trainer"],
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.secrets["ray"],
            "DATA_URL": f"{self.bucket(BUCKET)}/t1ce",
            "STORAGE_URL": f"{self.bucket(BUCKET)}/runs",
            "TRACKING_URI": self.url("mlflow"),
        }

    def save(self) -> None:
        """Keep what was chosen, and write the file that a shell reads."""
        choices = {"ports": dict(self.ports), "database": self.database, "storage": self.storage}
        write_private(self.folder / "stack.json", json.dumps(choices, indent=1))
        write_private(self.folder / "secrets.json", json.dumps(dict(self.secrets), indent=1))
        lines = {**self.client(), "RAY_ADDRESS": self.url("dashboard")}.items()
        write_private(self.folder / "env", "".join(f"export {name}={shlex.quote(value)}\n" for name, value in lines))


def default_folder() -> Path:
    """Return where a stack is kept: root's must be where PostgreSQL's user may go."""
    return Path("/var/lib/metasr") if os.geteuid() == 0 else Path.home() / "metasr" / "stack"


def load(folder: Path) -> Stack:
    """Return the stack in a folder.

    Raises:
        StackError: There is none.
    """
    try:
        choices = json.loads((folder / "stack.json").read_text())
        found = json.loads((folder / "secrets.json").read_text())
    except FileNotFoundError:
        raise StackError(f"there is no stack in {folder}: `make up` makes one") from None
    return Stack(folder, choices["ports"], found, choices["database"], choices["storage"])


def load_or_make(folder: Path, tell: Tell, *, any_ports: bool = False) -> Stack:
    """Return the stack in a folder, or a new one, with the services that this machine has.

    Args:
        folder: Of the stack.
        tell: Takes a line for each service that something simpler stands in for.
        any_ports: Take free ports instead of the usual ones.
    """
    if (folder / "stack.json").exists():
        return load(folder)
    folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    if os.geteuid() == 0:
        folder.chmod(0o711)  # whatever the umask: PostgreSQL's user passes through
    kept = folder / "secrets.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    made = {name: known.get(name) or secrets.token_hex(20) for name in SECRETS}
    usual = {} if any_ports else USUAL_PORTS
    ports: dict[str, int] = {}
    for name in (*USUAL_PORTS, *OTHER_PORTS):
        ports[name] = _port(usual.get(name), set(ports.values()))
    lacking = {
        "postgresql": why_no_postgresql(folder),
        "SeaweedFS": "" if program("weed") else "`weed` is not installed",
    }
    instead = {"postgresql": "MLflow keeps its tables in sqlite", "SeaweedFS": "folders stand in for buckets"}
    for service, why in lacking.items():
        if why:
            tell(f"no {service} ({why}): {instead[service]}")
    database = "sqlite" if lacking["postgresql"] else "postgresql"
    stack = Stack(folder, ports, made, database, "folder" if lacking["SeaweedFS"] else "seaweedfs")
    stack.save()
    return stack


def why_no_postgresql(folder: Path) -> str:
    """Return why MLflow cannot have PostgreSQL here; empty if it can."""
    if postgresql_program("initdb") is None:
        return "it is not installed: apt-get install postgresql"
    if importlib.util.find_spec("psycopg2") is None:
        return "Python's psycopg2 is missing: pip install psycopg2-binary"
    try:
        subprocess.run(["true"], cwd=folder, check=True, **as_database_owner())
    except KeyError:
        return "it refuses to be root, and there is no user postgres"
    except (PermissionError, subprocess.CalledProcessError):
        return f"its user, postgres, cannot enter {folder}"
    return ""


def as_database_owner() -> dict[str, object]:
    """Return the arguments of `subprocess` that make a process PostgreSQL's owner: it refuses to be root."""
    if os.geteuid() != 0:
        return {}
    owner = pwd.getpwnam("postgres")
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def postgresql_program(name: str) -> Path | None:
    """Return one of PostgreSQL's programs; Debian keeps them off the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    found = shutil.which(name, path=os.pathsep.join([*map(str, reversed(folders)), os.environ.get("PATH", "")]))
    return Path(found) if found else None


def program(name: str) -> str | None:
    """Return a program of this environment or of the machine."""
    return shutil.which(name, path=program_path())


def program_path() -> str:
    """Return PATH with the programs of this Python first."""
    return os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "/usr/bin:/bin")])


def plain_environment() -> dict[str, str]:
    """Return this process's environment without what leads to other stores, servers and clusters."""
    others = ("AWS_", "MLFLOW_", "RAY_", "PG")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return {**kept, "PATH": program_path(), "PYTHONUNBUFFERED": "1"}


def write_private(file: Path, text: str) -> None:
    """Write a file that its owner alone can read; whoever reads it finds the old text or the new."""
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "w", encoding="utf-8") as opened:
        opened.write(text)
    new.replace(file)


def _port(usual: int | None, taken: set[int]) -> int:
    """Return the usual port, or a free one if another program has it.

    Free ones lie above those of Ray's workers and below those of outgoing connections; weed also takes 10000 above.
    """
    if usual and _is_free(usual):
        return usual
    while True:
        port = random.randrange(20_000, 22_000)
        if port not in taken and _is_free(port) and _is_free(port + 10_000):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as server:
        try:
            server.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
