"""What needs a GPU and a cluster: a run whose worker is killed on a card, and a population that shares one."""

import signal
import time

import pytest
import torch

from tests.chaos.killer import send, train_workers
from tests.chaos.runs import RESUMING, SETTINGS, UPLOADED, check_restarts, digest_of, ended, report_of, running
from tests.cluster.sweeping import BETTER, IDLE, ledger_of, start_sweep
from tests.cluster.training import line_with, train_to_end
from tests.patience import PATIENCE_S

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("default"),  # of other versions of libraries than those that are locked
]
ON_GPU = {"resources.gpu": "true", "resources.num_workers": 1}
SHORT = SETTINGS | ON_GPU | {"train.steps": 100, "train.pixel_only_steps": 90}


def test_a_run_whose_worker_is_killed_on_a_card_comes_to_the_same_bits(tmp_path, store_url):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for home in (undisturbed, disturbed):
        home.mkdir()
    train_to_end(undisturbed, store_url, SHORT)
    with running(disturbed, store_url, SHORT) as process:
        line_with(process, UPLOADED)
        send(signal.SIGKILL, train_workers(process.pid))
        line_with(process, RESUMING)
        ended(process)
    check_restarts(report_of(disturbed), at_least=1)
    assert digest_of(disturbed) == digest_of(undisturbed)


def test_a_population_of_four_shares_a_card(tmp_path, store_url):
    settings = ON_GPU | {
        "resources.gpus_per_worker": 0.25,
        "search.scheduler": "pbt",
        "search.trials": 4,
        "search.pbt_interval": 0.2,
        "train.steps": 100,
        "train.pixel_only_steps": 100,
        "train.checkpoint_every_steps": 20,
    }
    process = start_sweep(
        tmp_path, store_url, f"space: {{optim.generator_lr: {{loguniform: [{IDLE}, {BETTER}]}}}}\n", settings
    )
    most = 0
    try:
        capacity = line_with(process, "capacity: ")
        while process.poll() is None and most < 4:
            most = max(most, len(train_workers(process.pid)))
            time.sleep(0.1)
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert "4 trials of 1 worker(s) with 1 CPU and 0.25 GPU each fit at once" in capacity, capacity + output
    assert process.returncode == 0, output
    trials = ledger_of(tmp_path).trials
    assert most == 4
    assert sum(trial.status == "finished" for trial in trials) == 4, trials
    assert any(trial.status == "replaced" for trial in trials), output
    assert all(trial.fork for trial in trials[4:])
