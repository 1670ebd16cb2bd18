"""What a sweep knows and decides without Ray: the objective, the ledger, what is left to do, what it may cost."""

import itertools
import json
import math
import threading
from types import SimpleNamespace

import pytest
from ray.tune.search import Searcher

from cluster.checkpoints import RunCheckpoints, SupersededError
from cluster.checkpoints.fork import Fork
from cluster.config import ResourcesConfig, SearchConfig, SweepConfig
from cluster.recipes import Layer
from cluster.sweep.budget import COST_UP, TIME_UP, Limits, at_once, fitting, forecast
from cluster.sweep.ledger import LEDGER, TrialLedger, read_ledger
from cluster.sweep.objective import Objective
from cluster.sweep.outcome import as_flags, table
from cluster.sweep.population import newest_from
from cluster.sweep.record import Point, SweepRecord, Trial
from cluster.sweep.search import Search, num_left, scheduler
from cluster.sweep.space import SweepPlan
from cluster.sweep.trial import COLLAPSED
from jobs.cli import RECIPES
from jobs.tune import SWEEPS
from metasr.errors import ConfigError, FormatError, StoreError
from metasr.training.collapse import WON_INTERVALS, Collapse
from tests.cluster.sealed import make_sealed


def validation(**gains):
    """Metrics with these gains in SSIM, such as x2=0.01."""
    return {
        f"val_ssim_{method}_{scale}": 0.9 + gain * (method == "model")
        for scale, gain in gains.items()
        for method in ("model", "bicubic")
    }


def trial(number, status="finished", objectives=(0.1,), **settings):
    history = tuple(Point(step=20 * (i + 1), objective=value, metrics={}) for i, value in enumerate(objectives))
    return Trial(number=number, status=status, run_name=f"r-{number}", history=history, settings=settings, seconds=60)


def record_of(*trials):
    space = {"optim.generator_lr": "loguniform 0.0001 to 0.01"}
    return SweepRecord(name="sweep-1", recipe="tiny", objective="o", scales=("2",), space=space, trials=trials)


def test_the_objective_is_the_mean_gain_over_all_scales():
    objective = Objective(("1.5", "2", "4"))
    assert objective(validation(x1=9.0, **{"x1.5": 0.01, "x2": 0.02, "x4": 0.03})) == pytest.approx(0.02)
    assert math.isnan(objective(validation(x2=0.02)))


def test_a_narrow_range_of_scales_cannot_win_by_avoiding_the_hard_ones():
    objective = Objective(("1.5", "2", "4"))
    narrow = objective(validation(**{"x1.5": 0.09, "x2": 0.08, "x4": -0.001}))
    wide = objective(validation(**{"x1.5": 0.001, "x2": 0.001, "x4": 0.0005}))
    assert narrow == pytest.approx(-0.001)
    assert wide > narrow


def test_with_a_higher_floor_every_trial_above_it_is_better_than_any_below():
    objective = Objective(("2", "4"), floor=0.002)
    assert objective(validation(x2=0.5, x4=0.0019)) < objective(validation(x2=0.0021, x4=0.0021))


def test_a_record_is_the_same_after_json_and_ranks_what_did_not_fail():
    record = record_of(trial(0, "failed", (0.9,)), trial(1, objectives=(0.1, 0.3)), trial(2, "stopped early", (0.2,)))
    assert SweepRecord.from_json(record.to_json()) == record
    assert [one.number for one in record.ranking] == [1, 2]
    assert (record.best.best_objective, record.best.best_step) == (0.3, 40)


def test_a_trial_is_judged_by_the_checkpoint_that_its_run_keeps():
    points = [
        Point(step=step, objective=objective, metrics={"selection_score": score})
        for step, objective, score in ((20, 0.3, 1.0), (40, 0.1, 2.0))
    ]
    kept = Trial(number=0, settings={}, run_name="r", history=tuple(points))
    assert (kept.best_step, kept.best_objective) == (40, 0.1)


def test_a_ledger_is_kept_by_the_newest_driver_alone(store):
    first = TrialLedger(store, "sweeps/s", 1, record_of())
    first.put(trial(0, "running"))
    second = TrialLedger(store, "sweeps/s", 2, record_of())
    assert second.record.trials == (trial(0, "running"),)
    second.put(trial(0))
    with pytest.raises(SupersededError):
        first.put(trial(0, "failed"))
    assert TrialLedger(store, "sweeps/s", 3, record_of()).record.trials == (trial(0),)


def test_documents_say_their_format_and_one_without_is_of_the_first(store):
    TrialLedger(store, "sweeps/s", 1, record_of(trial(0)))
    key = f"sweeps/s/{LEDGER}"
    for text in (store.get(key), record_of(trial(0)).to_json()):
        assert json.loads(text)["format"] == 1
    first = {name: value for name, value in json.loads(store.get(key)).items() if name != "format"}
    store.put(key, json.dumps(first).encode())
    assert read_ledger(store, key)[0].record == record_of(trial(0))


def test_a_document_of_a_later_format_is_refused_by_name_and_stays_as_it_is(store):
    key, later = f"sweeps/s/{LEDGER}", b'{"format": 2, "trials": []}'
    store.put(key, later)
    with pytest.raises(FormatError, match=rf"{key} .*it has format 2, .* reads format 1. Use the version of metasr"):
        TrialLedger(store, "sweeps/s", 1, record_of())
    assert store.get(key) == later
    with pytest.raises(FormatError, match=r"sweep\.json: it has format 2"):
        SweepRecord.from_json(later)


@pytest.mark.parametrize("text", [b"{", b"[]", b"{}"])
def test_a_damaged_ledger_is_one_line_with_what_to_do(store, text):
    store.put(f"sweeps/s/{LEDGER}", text)
    with pytest.raises(StoreError, match=f"sweeps/s/{LEDGER} .*it is damaged. Restore the file from a copy"):
        TrialLedger(store, "sweeps/s", 1, record_of())


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "s.yaml").write_text("space: {optim.generator_lr: {loguniform: [1e-4, 1e-2]}}\ntrain: {steps: 90}")
    return SweepPlan.read(str(tmp_path / "s.yaml"), SWEEPS, "smoke", RECIPES, Layer("command line", {}))


def suggestions(search, number):
    return [search.suggest(f"t{i}")["optim.generator_lr"] for i in range(number)]


def test_a_search_that_goes_on_repeats_nothing_but_what_was_left(plan):
    before = suggestions(Search(plan, record_of()), 2)
    assert before == suggestions(Search(plan, record_of()), 2)
    trials = [
        trial(i, status, **{"optim.generator_lr": before[i]}) for i, status in enumerate(("finished", "waiting"))
    ]
    after = suggestions(Search(plan, record_of(*trials)), 4)
    assert after[0] == before[1]
    assert len({*before, *after}) == 5


CHOICES = {"optim.generator_lr": "{choice: [0.001, 0.002, 0.003]}", "train.batch_size": "{uniform: [4, 5]}"}


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_no_settings_are_tried_twice_and_a_space_that_is_used_up_ends_the_search(tmp_path, searcher):
    text = f"space: {{{', '.join(f'{name}: {domain}' for name, domain in CHOICES.items())}}}\n"
    (tmp_path / "s.yaml").write_text(text + f"search: {{searcher: {searcher}}}")
    plan = SweepPlan.read(str(tmp_path / "s.yaml"), SWEEPS, "smoke", RECIPES, Layer("command line", {}))
    had = dict(zip(CHOICES, (0.002, 5), strict=True))
    waiting = trial(1, "waiting", (), **(had | {"train.batch_size": 4}))
    record = record_of(trial(0, **had), waiting)
    assert num_left(plan, record) == 5
    search = Search(plan, record)
    found = [had, *(plan.tidy(search.suggest(f"t{number}")) for number in range(5))]
    assert found[1] == waiting.settings
    assert sorted(tuple(one.values()) for one in found) == list(itertools.product((0.001, 0.002, 0.003), (4, 5)))
    assert search.suggest("t5") == Searcher.FINISHED
    assert num_left(plan, record_of(*(trial(number, **one) for number, one in enumerate(found)))) == 0


def test_fewer_trials_than_have_ended_leave_none(plan):
    assert num_left(plan, record_of(*(trial(number) for number in range(17)))) == 0


def test_tpe_learns_from_trials_of_an_earlier_driver(plan):
    rates = [10 ** (-4 + 2 * i / 19) for i in range(20)]
    found = (
        trial(i, objectives=(-abs(math.log10(rate / 0.005)),), **{"optim.generator_lr": rate})
        for i, rate in enumerate(rates)
    )
    failed = trial(20, "failed", (), **{"optim.generator_lr": 0.0099})
    near = suggestions(Search(plan, record_of(*found, failed)), 12)
    assert sum(0.002 < rate < 0.0095 for rate in near) >= 8


def test_asha_knows_how_far_earlier_trials_had_come(plan):
    steps = {"step": 30, "objective": 0.05}
    late = SimpleNamespace(trial_id="late")
    for known, decision in ((record_of(), "CONTINUE"), (record_of(trial(0, objectives=(0.1, 0.2))), "STOP")):
        asha = scheduler(plan.config, known)
        asha.on_trial_add(None, late)
        assert asha.on_trial_result(None, late, steps) == decision


def test_asha_stops_nobody_at_a_rung_that_was_passed_before(plan):
    ended = record_of(trial(0, "stopped early", (0.1, 0.2)), trial(1, "stopped early", (0.1, 0.3)))
    for again, decision in ((False, "STOP"), (True, "CONTINUE")):
        asha, ahead = scheduler(plan.config, ended), SimpleNamespace(trial_id="ahead")
        asha.on_trial_add(None, ahead)
        assert asha.on_trial_result(None, ahead, {"step": 30, "objective": 0.05, "repeated": again}) == decision


def test_asha_knows_of_earlier_trials_what_they_told_then(plan):
    scored = ((20, 0.1, 2.0), (40, 0.3, 1.0))  # at step 40 the run would still have registered what it had at 20
    points = tuple(
        Point(step=step, objective=objective, metrics={"selection_score": score}) for step, objective, score in scored
    )
    asha = scheduler(plan.config, record_of(trial(0).model_copy(update={"history": points})))
    late = SimpleNamespace(trial_id="late")
    asha.on_trial_add(None, late)
    assert asha.on_trial_result(None, late, {"step": 40, "objective": 0.2}) == "CONTINUE"


def config_of(**resources):
    return SweepConfig(resources=ResourcesConfig(**resources), search=SearchConfig(trials=6))


@pytest.mark.parametrize(
    ("resources", "nodes", "fit"),
    [
        ({"num_workers": 1}, [{"CPU": 2}], 2),
        ({"num_workers": 2}, [{"CPU": 3}, {"CPU": 3}], 3),
        ({"num_workers": 1, "gpu": True, "gpus_per_worker": 0.25}, [{"CPU": 16, "GPU": 2}], 8),
        ({"num_workers": 1, "gpu": True}, [{"CPU": 16, "GPU": 2}], 2),
        ({"num_workers": 1, "gpu": True, "gpus_per_worker": 0.25}, [{"CPU": 3, "GPU": 2}, {"CPU": 64}], 3),
    ],
)
def test_how_many_trials_fit_at_once(resources, nodes, fit):
    assert fitting(config_of(**resources), nodes) == fit


def test_workers_of_one_run_share_no_card():
    with pytest.raises(ValueError, match="NCCL refuses workers that share a GPU"):
        ResourcesConfig(num_workers=2, gpu=True, gpus_per_worker=0.5)


def test_where_no_trial_fits_it_is_said_at_once():
    with pytest.raises(ConfigError, match="no trial fits on these machines"):
        at_once(config_of(num_workers=4), 0)


def test_what_a_sweep_may_cost_is_said_from_above():
    config = config_of(num_workers=2, cpus_per_worker=1)
    config = config.model_copy(update={"train": config.train.model_copy(update={"steps": 100})})
    nothing, one = record_of(), record_of(trial(0, objectives=(0.1,)))  # 20 steps in 60 s
    unknown = "\n".join(forecast(config, nothing, 3, Limits(price=2.0)))
    assert "time: unknown until a trial has run" in unknown
    assert "cost: unknown until a trial has run: it depends on trials, steps and workers" in unknown
    assert "cost: at most 1.00, at 2 per worker hour" in forecast(config, nothing, 3, Limits(cost=1.0, price=2.0))
    lines = forecast(config, one, 3, Limits(price=2.0))
    assert "capacity: 3 trials of 2 worker(s) with 1 CPU each fit at once, 3 run at a time" in lines
    assert "work: at most 5 trials of 100 steps (1 have ended)" in lines
    assert any(line.startswith("time: at most 0.833 worker hours") for line in lines)  # 5 x 100 x 3 s x 2
    assert "cost: at most 1.67, at 2 per worker hour" in lines
    assert "cost: at most 1.00, at 2 per worker hour" in forecast(config, one, 3, Limits(cost=1.0, price=2.0))


def test_a_limit_is_reached_by_time_or_by_money():
    limits = Limits(hours=1, cost=3, price=2)
    assert limits.reached(3599, 3600) == ""
    assert limits.reached(3600, 0) == TIME_UP
    assert limits.reached(0, 1.5 * 3600) == COST_UP


def test_the_table_has_the_best_first_and_the_reason_of_a_failure():
    bad = trial(0, "failed", (), **{"optim.generator_lr": 0.3}).model_copy(update={"reason": "the loss is NaN"})
    good = trial(1, objectives=(0.2,), **{"optim.generator_lr": 0.001})
    lines = table(record_of(bad, trial(2, **{"optim.generator_lr": 0.1}), good))
    assert [line.split()[0] for line in lines] == ["trial", "1", "2", "0"]
    assert lines[-1].endswith("the loss is NaN")
    assert as_flags(good) == "--optim.generator-lr 0.001"


def test_a_collapse_is_told_in_the_words_that_a_trial_looks_for():
    class Context:
        def __init__(self):
            self.texts = []

        def log(self, event):
            self.texts.append(event.text)

    context = Context()
    collapse = Collapse(context)
    collapse.see_contrast(1, 0.0)
    for step in range(WON_INTERVALS):
        collapse.see_loss(step, 0.0)
    assert len(context.texts) == len(COLLAPSED)
    assert all(text.startswith(COLLAPSED) for text in context.texts)


def test_a_population_fits_at_once_or_is_refused():
    config = config_of(num_workers=2).model_copy(update={"search": SearchConfig(trials=6, scheduler="pbt")})
    assert at_once(config, 6) == 6
    with pytest.raises(ConfigError, match="a population of 6 trials trains at once, and 5 fit"):
        at_once(config, 5)


def test_who_was_replaced_counts_for_nobody_and_can_still_be_the_best():
    behind = trial(0, "replaced", (0.3,))
    forked = trial(2, objectives=(0.1, 0.2)).model_copy(update={"fork": Fork("r-1", 10)})
    record = record_of(behind, trial(1, "running", (0.1,)), forked)
    assert SweepRecord.from_json(record.to_json()) == record
    assert (record.num_ended, forked.steps_done) == (1, 30)
    assert record.best is not None
    assert record.best.number == 0
    assert as_flags(forked) == "--fork r-1@10"


def test_a_fork_begins_where_the_other_run_is_or_as_soon_after_as_it_kept_a_checkpoint(store, tmp_path):
    run = RunCheckpoints(store, "one").claim(1)
    assert newest_from(store, "one", 20, timeout_s=0) is None
    for step in (20, 40):
        run.publish(make_sealed(tmp_path / str(step), step), step, 0.0, keep=2)
    assert newest_from(store, "one", 20, timeout_s=0) == Fork("one", 20)
    assert newest_from(store, "one", 30, timeout_s=0) == Fork("one", 40)
    assert newest_from(store, "one", 60, timeout_s=0) == Fork("one", 40)


def test_a_fork_waits_for_a_checkpoint_that_is_on_its_way_up(store, tmp_path):
    run = RunCheckpoints(store, "one").claim(1)
    run.publish(make_sealed(tmp_path / "20", 20), 20, 0.0, keep=2)
    late = make_sealed(tmp_path / "40", 40)
    upload = threading.Timer(0.5, lambda: run.publish(late, 40, 0.0, keep=2))
    upload.start()
    assert newest_from(store, "one", 40) == Fork("one", 40)
    upload.join()
