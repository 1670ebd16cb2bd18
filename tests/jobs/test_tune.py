"""metasr tune on the command line: what it says before anything starts."""

import pytest

from cluster.config import JobConfig, TrackingConfig
from cluster.sweep.record import Point, SweepRecord, Trial
from cluster.sweep.sweep import Swept
from cluster.training.registration import Sent
from jobs.tune import as_json, conclusion
from tests.cluster.training import TINY, flags, places


@pytest.fixture
def dry_run(metasr, home, store_url):
    (home / "s.yaml").write_text(
        "space: {optim.generator_lr: {loguniform: [1e-4, 1e-2]}}\n"
        "train: {steps: 60, checkpoint_every_steps: 20}\nresources: {num_workers: 1}\n"
    )

    def call(*more):
        given = {"data.url": store_url, **places(home), **TINY}
        return metasr("tune", "--sweep", home / "s.yaml", "--recipe", "smoke", *flags(given), "--dry-run", *more)

    return call


def test_a_dry_run_says_what_would_be_searched_and_writes_nothing(dry_run, home):
    outcome = dry_run("--trials", "5", "--concurrent", "1", "--max-time", "2", "--price-per-hour", "3")
    assert outcome.code == 0, outcome.err
    assert "objective: mean gain in SSIM over bicubic at scales 1.5, 2; where the gain at the worst" in outcome.out
    assert "searched: optim.generator_lr  loguniform 0.0001 to 0.01" in outcome.out
    assert "fit at once, 1 run at a time" in outcome.out
    assert "work: at most 5 trials of 60 steps (0 have ended)" in outcome.out
    assert "time: at most 2 worker hours (--max-time for 1 workers)" in outcome.out
    assert "cost: at most 6.00, at 3 per worker hour" in outcome.out
    assert {path.name for path in home.iterdir()} <= {"s.yaml", "home"}


def test_the_same_search_is_the_same_sweep_and_another_is_not(dry_run):
    names = [
        dry_run(*more).out.split()[1]
        for more in ((), ("--trials", "7", "--concurrent", "1"), ("--search.seed", "1"), ("--train.seed", "1"))
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert names[0].startswith("sweep-s-")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep", "loss-weigths"], "sweep loss-weigths: there is no such sweep. Did you mean loss-weights?"),
        (
            ["--sweep", "loss-weights", "--recipe", "brat"],
            "recipe brat: there is no such recipe. Did you mean brats?",
        ),
        (["--sweep", "loss-weights", "--loss.adversarial", "1"], "the sweep loss-weights searches this setting"),
        (["--sweep", "scale-range"], "data.url is not set"),
        (["--sweep", "scale-range", "--serach.trials", "3"], "unknown argument --serach.trials: did you mean"),
        (["--sweep", "scale-range", "--trials", "0"], "search.trials = 0"),
        (["--sweep", "scale-range", "--max-cost", "5"], "Give --price-per-hour too"),
        (["--sweep", "scale-range", "--max-time", "-1"], "'-1' is not a number above 0"),
        ([], "the following arguments are required: --sweep"),
    ],
)
def test_a_mistake_is_one_line(metasr, arguments, message):
    outcome = metasr("tune", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


REGISTERED = Sent(version="7")


def record_of(*objectives):
    trials = tuple(
        Trial(number=number, settings={}, run_name="r", status="finished", history=(found,))
        for number, objective in enumerate(objectives)
        for found in [Point(step=60, objective=objective, metrics={})]
    )
    return SweepRecord(name="s", recipe="r", objective="o", scales=("2",), space={}, trials=trials)


def conclusion_of(*objectives, sent=REGISTERED):
    record = record_of(*objectives)
    return "\n".join(conclusion(record, record.best, sent, JobConfig(tracking=TrackingConfig(model="m"))))


def test_a_sweep_in_which_all_trials_are_below_bicubic_says_so_and_why_it_registers_one():
    said = conclusion_of(-0.02, -0.01)
    assert "trial 1 is version 7 of m" in said
    assert "no trial is as good as bicubic interpolation at all scales" in said
    assert "the objective of the best, trial 1, is -0.0100" in said
    assert "it is still registered, so that it can be evaluated" in said
    assert "bicubic" not in conclusion_of(-0.02, 0.01)


def test_a_best_trial_that_is_not_registered_is_not_said_to_be():
    said = conclusion_of(0.01, sent=Sent(num_waiting=3, model_waits=True))
    assert "3 records and the model wait in" in said
    assert "metasr sync" in said
    assert "is version" not in said
    assert "metasr evaluate r" in said


def test_a_script_gets_the_best_trial_and_all_others():
    record = record_of(0.01, 0.02)
    said = as_json(Swept(record, best=REGISTERED), JobConfig(tracking=TrackingConfig(model="m")))
    assert (said["sweep"], said["model"], said["version"], said["best"]) == ("s", "m", "7", record.best.run_name)
    assert [trial["objective"] for trial in said["trials"]] == [0.01, 0.02]
