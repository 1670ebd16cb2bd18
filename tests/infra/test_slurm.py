"""A training on a real Slurm: signalled as before its time is up, queued again, and the same weights at the end."""

import subprocess
import sysconfig
import time

import pytest

from tests.cluster.training import ROOT, arguments_of, checkpoints_of, newest_digest, state_digest, train_locally
from tests.infra import slurm
from tests.patience import PATIENCE_S

SCRIPT = ROOT / "infra" / "slurm" / "train.sbatch"


def test_the_script_is_valid_shell_and_names_what_lets_a_run_go_on():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    options = [line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--requeue", "--open-mode=append", "--signal=B:USR1@180"} <= set(options)


def wait_until(condition, said):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, said()
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.skipif(not slurm.is_here(), reason="needs Slurm, as root: apt-get install slurm-wlm munge")
def test_a_job_that_is_signalled_queues_again_and_ends_with_the_same_weights(tmp_path, store_url):
    settings = {
        "train.steps": 40,
        "train.checkpoint_every_steps": 10,
        "train.pixel_only_steps": 30,
        "resources.num_workers": 1,
    }
    output = tmp_path / "job.log"
    with slurm.one_node() as environment:
        arguments = map(str, arguments_of(tmp_path, store_url, settings))
        bin_folder = f"ALL,METASR_BIN={sysconfig.get_path('scripts')}"
        job = slurm.submit(
            environment, f"--output={output}", f"--export={bin_folder}", f"--chdir={tmp_path}", SCRIPT, *arguments
        )

        def has_checkpoint():
            assert slurm.state_of(environment, job) in ("PENDING", "CONFIGURING", "RUNNING"), output.read_text()
            return bool(list((tmp_path / "runs").rglob("step-*/manifest.json")))

        wait_until(has_checkpoint, output.read_text)
        subprocess.run(["scancel", "--batch", "--signal=USR1", job], env=environment, check=True)
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        wait_until(lambda: slurm.state_of(environment, job) in ended, output.read_text)
        assert slurm.state_of(environment, job) == "COMPLETED", output.read_text()
    said = output.read_text()
    assert said.count("queued again") == 1
    assert "resuming from the checkpoint of this step" in said.split("queued again")[1]
    step, digest = newest_digest(checkpoints_of(tmp_path / "runs"))
    assert step == 40
    assert digest == state_digest(train_locally(tmp_path, store_url, settings))
