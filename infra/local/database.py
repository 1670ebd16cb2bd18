"""PostgreSQL at a socket in the stack's folder: two databases for MLflow, and one user with a password."""

import getpass
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import IO

from infra.local.stack import Stack, StackError, as_database_owner, postgresql_program, write_private

DATABASES = ("runs", "users")
OWNER = "postgres" if os.geteuid() == 0 else getpass.getuser()
ACCESS = "local all mlflow scram-sha-256\nlocal all all peer\n"


def prepare(stack: Stack) -> None:
    """Make an empty cluster of databases, unless there is one."""
    place = stack.place("database")
    if not (place / "data" / "PG_VERSION").exists():
        if os.geteuid() == 0:
            shutil.chown(place, OWNER, OWNER)
        data = ["--pgdata", place / "data", "--username", OWNER, "--encoding=UTF8", "--locale=C"]
        run("initdb", *data, "--auth=peer")
    access = place / "data" / "pg_hba.conf"
    write_private(access, ACCESS)
    if os.geteuid() == 0:
        shutil.chown(access, OWNER, OWNER)


def command(stack: Stack) -> list[str | Path]:
    """Return the command of the server: no network, a socket alone."""
    place = stack.place("database")
    options = {"listen_addresses": "", "unix_socket_directories": place}
    flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return [_program("postgres"), "-D", place / "data", *flags]


def healthy(stack: Stack) -> bool:
    """Return whether the server takes connections."""
    asked = [_program("pg_isready"), "--quiet", "--host", stack.place("database")]
    return subprocess.run(asked, timeout=30, check=False).returncode == 0


def furnish(stack: Stack) -> None:
    """Make MLflow's user and databases, those that are missing, and set the user's password."""
    lines = [
        "SELECT 'CREATE ROLE mlflow LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mlflow') \\gexec",
        f"ALTER ROLE mlflow PASSWORD '{stack.secrets['database']}';",
    ]
    for name in DATABASES:
        found = f"SELECT FROM pg_database WHERE datname = '{name}'"
        lines.append(f"SELECT 'CREATE DATABASE {name} OWNER mlflow' WHERE NOT EXISTS ({found}) \\gexec")
    run(
        "psql",
        *as_owner(stack),
        "--dbname=postgres",
        "--quiet",
        "--no-psqlrc",
        "--set=ON_ERROR_STOP=1",
        typed="\n".join(lines),
    )


def uri(stack: Stack, name: str) -> str:
    """Return the address of one of MLflow's databases."""
    if stack.database == "sqlite":
        return f"sqlite:///{stack.place('mlflow')}/{name}.db"
    return f"postgresql+psycopg2://mlflow:{stack.secrets['database']}@/{name}?host={stack.place('database')}"


def as_owner(stack: Stack) -> list[str | Path]:
    """Return the options that make one of PostgreSQL's programs the owner of all databases."""
    return ["--host", stack.place("database"), "--username", OWNER]


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a sqlite file that may be written to meanwhile."""
    with closing(sqlite3.connect(source)) as opened, closing(sqlite3.connect(target)) as copy:
        opened.backup(copy)


def run(name: str, *arguments: str | Path, typed: str | IO[bytes] = "", output: IO[bytes] | None = None) -> None:
    """Run one of PostgreSQL's programs as the owner of the databases.

    Args:
        name: Of the program.
        arguments: Its arguments.
        typed: Its input: text, or a file.
        output: Where its output goes; nowhere by default.

    Raises:
        StackError: It failed; the last line that it said is part of the message.
    """
    given = {"input": typed.encode()} if isinstance(typed, str) else {"stdin": typed}
    done = subprocess.run(
        [_program(name), *arguments],
        cwd="/",
        stdout=output or subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
        **given,
        **as_database_owner(),
    )
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise StackError(f"PostgreSQL's {name} failed: {said[-300:]}")


def _program(name: str) -> Path:
    found = postgresql_program(name)
    if found is None:
        raise StackError("this stack is kept in PostgreSQL, which is gone: apt-get install postgresql")
    return found
