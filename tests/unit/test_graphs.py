"""Captured steps, on a CPU: what a CUDA graph asks of a step, with a tape in its place (`tape.py`)."""

from pathlib import Path

import pytest
import torch
from torch import nn

from metasr.config import OptimConfig
from metasr.context import LocalContext
from metasr.data.sample import make_batch, plan_step
from metasr.errors import DivergedError
from metasr.training.adam import Adam, step_where
from metasr.training.graphs import MOST_KINDS, Checked, Direct, Graphs
from metasr.training.left_out import LeftOut, Outcome
from metasr.training.state import TrainingState
from metasr.training.stepper import Stepper
from tests.unit.runs import experiment, initial_state, losses_of, smooth_images, train
from tests.unit.tape import Tape

pytestmark = pytest.mark.usefixtures("one_thread")

AVERAGED = OptimConfig(generator_lr=1e-3, ema_decay=0.9, decay_every_steps=7, clip_norm=0.5)
THREE_SCALES = {"scale_min": 1.8, "scale_max": 2.0, "batch_size": 4, "optim": AVERAGED}


@pytest.fixture(autouse=True)
def small_discriminator(monkeypatch):
    """Whose steps take milliseconds."""

    def build(config):
        layers = [nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.Conv2d(8, 16, 3, stride=2)]
        layers += [nn.BatchNorm2d(16), nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 1, 1)]
        return nn.Sequential(*layers, nn.Flatten(0))

    monkeypatch.setattr("metasr.training.state.build_discriminator", build)


def assert_same_state(one, other):
    tensors, others = one.tensors(), other.tensors()
    assert tensors.keys() == others.keys()
    assert any("discriminator/1.running_mean" in name for name in tensors)
    for name, value in tensors.items():
        assert torch.equal(value, others[name]), name


class Gpu(Adam):
    """Adam as it is on a GPU."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=torch.tensor(lr), fused=True, capturable=True)


def batches(config, num_steps, crops=None):
    """Yield the two parts of each step's batch."""
    crops = smooth_images(4, 48, seed=0) if crops is None else crops
    for step in range(num_steps):
        plan = plan_step(config, step)
        yield [make_batch(crops[part], plan, part) for part in (slice(0, 2), slice(2, 4))]


def stepper_of(config, monkeypatch, capture):
    """Return a stepper whose state is that of a GPU, and how it captures."""
    monkeypatch.setattr("metasr.training.state.adam", lambda parameters, lr, device: Gpu(parameters, lr))
    state = TrainingState.initial(config, torch.device("cpu"), mean=0.5, std=0.25)
    context = LocalContext(Path())
    made = []

    def make(stepper):
        made.append(capture(stepper))
        return made[0]

    monkeypatch.setattr(Stepper, "_capture", make)
    return Stepper(config, state, context), state, made


@pytest.mark.parametrize("reduction", ["exact", "fast"])
def test_repeated_steps_give_the_bits_of_plain_ones_over_60_steps_with_three_scales(monkeypatch, reduction):
    settings = {"steps": 60, "pixel_only_steps": 15, "virtual_shards": 2, "reduction": reduction} | THREE_SCALES
    config = experiment(graphs="on", **settings)
    curves, states = [], []
    for capture in (lambda stepper: Tape(stepper._tensors), lambda stepper: Direct()):
        stepper, state, (captured, *_) = stepper_of(config, monkeypatch, capture)
        curve = []
        for parts in batches(config, 60):
            joined = [type(parts[0])(*map(torch.cat, zip(*(p[:2] for p in parts), strict=True)), parts[0].scale)]
            curve.append(stepper.read(stepper.step(parts if reduction == "exact" else joined)))
        curves.append(curve)
        states.append(state)
        if isinstance(captured, Tape):
            assert captured.num_replays >= 60 - 6  # one plain step of each kind: three scales, two phases
    assert curves[0] == curves[1]
    assert len({tuple(losses.values()) for losses in curves[0]}) == 60
    assert_same_state(*states)


def test_a_run_of_static_batches_read_now_and_then_is_the_plain_run(tmp_path):
    settings = {"steps": 60, "pixel_only_steps": 15, "log_every_steps": 10} | THREE_SCALES
    plain, curve = train(tmp_path / "off", experiment(graphs="off", **settings))
    ahead, same_curve = train(tmp_path / "on", experiment(graphs="on", **settings))
    assert losses_of(same_curve) == losses_of(curve)
    assert len(losses_of(curve)) == 6
    assert_same_state(ahead, plain)


def test_such_a_run_may_stop_anywhere_and_goes_on_as_if_it_had_not(tmp_path):
    settings = {"graphs": "on", "pixel_only_steps": 9} | THREE_SCALES
    whole, _ = train(tmp_path / "whole", experiment(steps=12, **settings))
    for steps in (5, 7, 12):
        resumed, _ = train(tmp_path / "stopped", experiment(steps=steps, **settings))
    assert_same_state(resumed, whole)


def half_damaged():
    crops = smooth_images(4, 48, seed=0)
    crops[1] = torch.nan
    return crops


def test_updates_that_are_not_finite_are_left_out_the_same_way_and_counted_later(tmp_path):
    settings = {"steps": 8, "on_nan": "skip", "log_every_steps": 4, "optim": AVERAGED}
    plain, _ = train(tmp_path / "off", experiment(graphs="off", **settings), half_damaged())
    ahead, history = train(tmp_path / "on", experiment(graphs="on", **settings), half_damaged())
    assert 0 < plain.skipped < 10
    assert ahead.skipped == plain.skipped
    assert [values["skipped"] for _, values in history if "skipped" in values][-1] == plain.skipped
    assert_same_state(ahead, plain)


@pytest.mark.parametrize(("setting", "value"), [("on_nan", "stop"), ("max_skipped", 1)])
def test_a_run_read_now_and_then_ends_before_it_keeps_what_must_not_be(tmp_path, setting, value):
    settings = {"on_nan": "skip", "log_every_steps": 1000, "checkpoint_every_steps": 8, setting: value}
    with pytest.raises(DivergedError, match="the loss is nan"):
        train(tmp_path, experiment(steps=30, graphs="on", **settings), half_damaged())
    assert not list(tmp_path.glob("step-*"))


def test_a_fused_update_that_is_left_out_on_the_device_leaves_everything_as_if_it_had_never_been_asked_for():
    states = []
    for is_guarded in (True, False):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 40))
        optimiser = Gpu([weight], 0.01)
        for step in range(8):
            weight.grad = torch.linspace(step, -1, 40)
            if is_bad := step in (0, 3, 4):
                weight.grad[step] = torch.nan
            if is_guarded:
                step_where(weight.grad.isfinite().all(), optimiser)
            elif not is_bad:
                optimiser.step()
        states.append([weight, *optimiser.state[weight].values()])
    assert states[0][1] == 5
    assert all(map(torch.equal, *states))


def outcome(loss, length):
    values = torch.tensor(loss), torch.tensor(length)
    return Outcome(values[0].isfinite() & values[1].isfinite(), *values)


def test_what_was_left_out_is_remembered_until_somebody_looks():
    good, seen = outcome(1.0, 2.0), LeftOut(torch.device("cpu"))
    assert seen.look() == (0, False, None)
    seen.note(outcome(float("nan"), 1.0), outcome(float("inf"), 1.0))
    seen.note(good, good)
    count, is_newest, error = seen.look()
    assert (count, is_newest, error.what) == (1, False, "the loss is nan")
    seen.note(outcome(float("nan"), 1.0), good)
    seen.note(good, outcome(1.0, float("inf")))
    count, is_newest, error = seen.look()
    assert (count, is_newest, error.what) == (2, True, "the length of the gradient is inf")
    assert seen.look()[0] == 0


class Wrong(Tape):
    """Repeats a step of the second scale with an error."""

    def record(self, call):
        replay, number = super().record(call), self.num_replays

        def wrong():
            result = replay()
            if number:
                self._tensors()[0].view(-1)[0] += 1e-6
            return result

        return wrong


def test_graphs_that_are_compared_first_are_given_up_where_they_differ(monkeypatch):
    config = experiment(graphs="on", virtual_shards=2, **THREE_SCALES)
    ends, told = [], []
    for capture in (lambda e: Checked(Wrong(e._tensors), e._tensors, told.append), lambda e: Direct()):
        stepper, state, _ = stepper_of(config, monkeypatch, capture)
        for parts in batches(config, 12):
            stepper.step(parts)
        ends.append(state)
    assert len(told) == 1
    assert "other bits" in told[0]
    assert_same_state(*ends)


def test_graphs_that_are_compared_and_agree_are_used(monkeypatch):
    config, told = experiment(graphs="on", virtual_shards=2, **THREE_SCALES), []
    stepper, _, made = stepper_of(config, monkeypatch, lambda e: Checked(Tape(e._tensors), e._tensors, told.append))
    for parts in batches(config, 12):
        stepper.step(parts)
    assert told == []
    assert made[0]._capture.num_replays == 12 - 3


def test_the_kinds_used_last_are_kept():
    done = []
    graphs = Graphs(lambda kind, parts: done.append(kind) or {}, Counting())
    for kind in [*range(MOST_KINDS), 0, MOST_KINDS, 0, 1]:
        graphs.run(kind, [])
    assert graphs._capture.warmed == [*range(MOST_KINDS), MOST_KINDS, 1]  # 1 made room


class Counting(Direct):
    """Notes which calls were warm-ups."""

    def __init__(self):
        self.warmed = []

    def warm_up(self, call):
        self.warmed.append(call.args[0])
        return call()


def test_one_setting_makes_a_state_of_a_gpu_and_of_a_cpu_interchangeable(tmp_path, monkeypatch):
    config = experiment(steps=2, batch_size=4)
    plain, _ = train(tmp_path, config)
    monkeypatch.setattr("metasr.training.state.adam", lambda parameters, lr, device: Gpu(parameters, lr))
    fused = initial_state(config)
    fused.load(tmp_path / "step-2")
    assert_same_state(fused, plain)
