"""The stack of one server: what it keeps, what it starts, and whom it lets in."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from infra.local import database, nodes, process, services, storage, tracking, watching
from infra.local.stack import SECRETS, USUAL_PORTS, StackError, load, load_or_make

ROOT = Path(__file__).parents[2]
FOR_EVERYBODY = stat.S_IRWXG | stat.S_IRWXO


@pytest.fixture
def stack(tmp_path):
    return load_or_make(tmp_path / "stack", lambda line: None, any_ports=True)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "infra.local", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


def test_a_stack_is_the_same_when_it_starts_again(stack):
    assert load_or_make(stack.folder, lambda line: None) == load(stack.folder) == stack
    assert len(set(stack.ports.values())) == len(stack.ports)


def test_secrets_are_their_owners_alone_and_those_who_work_get_no_more_than_they_need(stack):
    for prepare in (storage.prepare, tracking.prepare, watching.prepare):
        prepare(stack)
    holding = [path for path in stack.folder.rglob("*") if path.is_file() and any_secret(path, stack)]
    assert {"secrets.json", "env", "users.json", "auth.ini"} <= {path.name for path in holding}
    assert not [path for path in holding if path.stat().st_mode & FOR_EVERYBODY]
    told = (stack.folder / "env").read_text()
    given = {name for name in SECRETS if stack.secrets[name] in told}
    assert given == ({"mlflow_trainer", "ray"} | ({"s3_trainer"} if stack.storage == "seaweedfs" else set()))


def any_secret(path, stack):
    text = path.read_text(errors="replace")
    return any(secret in text for secret in stack.secrets.values())


def test_no_secret_is_in_a_command_line_which_everybody_can_read(stack):
    for name, service in services.SERVICES.items():
        if name not in services.absent(stack):
            line = " ".join(map(str, service.command(stack)))
            assert not [secret for secret in stack.secrets.values() if secret in line]


def test_a_user_of_the_store_has_its_own_bucket_alone(stack):
    storage.prepare(stack)
    users = json.loads((stack.folder / "storage" / "users.json").read_text())["identities"]
    allowed = {user["name"]: user["actions"] for user in users}
    assert allowed["trainer"] == ["Read:metasr", "Write:metasr", "List:metasr"]
    assert allowed["mlflow"] == ["Read:mlflow", "Write:mlflow", "List:mlflow"]


def test_a_machine_without_postgresql_and_seaweedfs_has_something_simpler_and_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("infra.local.stack.postgresql_program", lambda name: None)
    monkeypatch.setattr("infra.local.stack.program", lambda name: None)
    lines = []
    stack = load_or_make(tmp_path / "stack", lines.append, any_ports=True)
    assert (stack.database, stack.storage) == ("sqlite", "folder")
    assert len(lines) == 2
    assert "apt-get install postgresql" in lines[0]
    assert database.uri(stack, "runs").startswith("sqlite:////")
    assert not stack.s3("trainer")
    assert stack.client()["DATA_URL"] == f"{stack.folder}/files/metasr/t1ce"
    monkeypatch.undo()
    assert load(stack.folder).database == "sqlite"  # although there may be PostgreSQL by now: it would be empty


def test_a_port_that_is_taken_is_replaced(tmp_path):
    with socket.socket() as other:
        with suppress(OSError):  # another program has it, which serves as well
            other.bind(("127.0.0.1", USUAL_PORTS["mlflow"]))
        assert load_or_make(tmp_path / "stack", print).ports["mlflow"] != USUAL_PORTS["mlflow"]


def test_a_process_is_known_by_its_lock_and_ends_with_its_group(tmp_path):
    pid_file, log = tmp_path / "x.pid", tmp_path / "log"
    command = ["sh", "-c", "echo here; sleep 1000 & wait"]
    assert process.alive(pid_file) == 0
    process.start(pid_file, log, command, os.environ, {})
    pid = process.alive(pid_file)
    assert os.getpgid(pid) == pid
    assert process.stop(pid_file)
    assert process.alive(pid_file) == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, signal.SIGCONT)
    assert not process.stop(pid_file)
    pid_file.write_text("1")  # a number alone is nobody's
    assert process.alive(pid_file) == 0
    assert not process.stop(pid_file)


def test_what_a_person_can_mend_is_one_line(tmp_path):
    for arguments, said in (
        (["status", "--folder", tmp_path / "none"], "there is no stack in"),
        (["up", "mlfow", "--folder", tmp_path / "s"], "there is no service mlfow"),
        (["restore", tmp_path, "--folder", tmp_path / "s"], "is not a whole copy"),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_a_service_that_does_not_start_shows_its_log(stack, monkeypatch):
    broken = services.Service(lambda _: "broken", lambda _: ["sh", "-c", "echo no disk; exit 1"], lambda _: False)
    monkeypatch.setitem(services.SERVICES, "broken", broken)
    with pytest.raises(StackError, match=r"broken does not start(?s:.*)no disk"):
        services.up(stack, ["broken"], print)


def test_ray_keeps_its_files_where_others_do_not_enter(stack):
    assert nodes.folder(stack).parent.stat().st_mode & FOR_EVERYBODY == 0
