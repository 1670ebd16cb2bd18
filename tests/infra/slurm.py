"""A Slurm of one node on this machine, with a munge of its own, for as long as a block lasts."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.patience import PATIENCE_S

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "squeue")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
JobRequeue=1
KillWait=30
MessageTimeout=60
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def is_here():
    """Return whether this machine has what it takes, and this is root: slurmd starts jobs as others."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    return os.geteuid() == 0 and all(shutil.which(program, path=path) for program in PROGRAMS)


@contextmanager
def one_node():
    """Start it; yield the environment in which `sbatch` and the others find it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    host, conf = socket.gethostname().partition(".")[0], folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder, ports=_free_ports(2), cpus=os.cpu_count()))
    environment = {**os.environ, "SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    files = {name: folder / f"munge.{name}" for name in ("socket", "log", "pid", "seed")}
    munge = [f"--{'log' if name == 'log' else name}-file={path}" for name, path in files.items() if name != "socket"]
    with ExitStack() as started:
        started.callback(shutil.rmtree, folder, ignore_errors=True)
        for command in (
            ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={files['socket']}", *munge],
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        ):
            log = started.enter_context((folder / f"{command[0]}.out").open("wb"))
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            started.callback(process.wait, timeout=PATIENCE_S)
            started.callback(process.terminate)
            if command[0] == "munged":
                _wait(files["socket"].exists, process, folder)
        _wait(lambda: "idle" in _said(environment, "sinfo", "--noheader", "--format=%T"), process, folder)
        started.callback(_end_jobs, environment)
        yield environment


def _end_jobs(environment):
    """End what still runs: a job outlives the daemons."""
    _said(environment, "scancel", "--user=root")
    deadline = time.monotonic() + PATIENCE_S
    while _said(environment, "squeue", "--noheader").strip() and time.monotonic() < deadline:
        time.sleep(0.5)


def submit(environment, *arguments):
    """Submit a batch job; return its number."""
    return _said(environment, "sbatch", "--parsable", *arguments).strip()


def state_of(environment, job):
    """Return the state of a job; empty when Slurm has forgotten it."""
    return _said(environment, "squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}").strip()


def _said(environment, *command):
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stdout


def _wait(condition, process, folder):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        logs = "\n".join(path.read_text() for path in folder.glob("*.out"))
        assert process.poll() is None, logs
        assert time.monotonic() < deadline, logs
        time.sleep(0.5)


def _free_ports(number):
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
