"""Signals as a driver takes them: before there are workers, while there are, and after."""

import signal

import pytest

from cluster.training.stop import Stop, short_grace
from metasr.context import Request
from metasr.errors import Interrupted


@pytest.fixture
def told():
    return []


@pytest.fixture
def stop(told):
    return Stop(told.append)


def test_a_signal_without_anybody_to_forward_to_ends_the_program_where_it_is(stop):
    with pytest.raises(Interrupted) as caught, stop.heard():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.exit_code == 143
    assert (stop.signal, stop.name) == (signal.SIGTERM, "SIGTERM")


def test_the_first_signal_is_forwarded_and_the_second_ends_the_program(stop, told):
    forwarded = []
    with stop.forwarded_to(forwarded.append):
        signal.raise_signal(signal.SIGINT)
        assert forwarded == [Request.STOP]
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(signal.SIGTERM)
    assert caught.value.exit_code == 143
    assert stop.name == "SIGINT"
    assert told == ["SIGINT: saving a checkpoint after this step; once more ends at once"]


def test_a_signal_can_wait_for_what_must_not_be_half_done(stop):
    done = []

    def act():
        with stop.heard(), stop.deferred():
            signal.raise_signal(signal.SIGTERM)
            done.append("all")

    with pytest.raises(Interrupted):
        act()
    assert done == ["all"]


def test_a_checkpoint_is_promised_only_where_there_are_workers(stop, told):
    with stop.forwarded_to(lambda request: None, has_workers=lambda: False):
        signal.raise_signal(signal.SIGTERM)
    assert told == ["SIGTERM: no workers, ending; once more ends at once"]


def test_a_signal_where_python_lets_nothing_be_raised_counts_and_prints_nothing(stop, capfd):
    class Finalized:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with stop.heard():
        Finalized()
    assert stop.signal == signal.SIGTERM
    assert capfd.readouterr().err == ""


def test_after_the_workers_a_signal_ends_the_program_again(stop):
    with stop.heard():
        with stop.forwarded_to(lambda request: None):
            pass
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)


def test_signals_that_another_has_taken_meanwhile_are_taken_back_and_given_back_at_the_end(stop):
    before = signal.getsignal(signal.SIGTERM)
    with stop.heard():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop.hear()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("environment", "warns"),
    [
        ({}, False),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, True),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "RAY_JOB_STOP_WAIT_TIME_S": "10"}, True),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "RAY_JOB_STOP_WAIT_TIME_S": "60"}, False),
    ],
)
def test_a_submitted_job_that_is_killed_too_soon_is_told(monkeypatch, environment, warns):
    for name in ("RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_JOB_STOP_WAIT_TIME_S"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ("RAY_JOB_STOP_WAIT_TIME_S=30" in short_grace()) == warns
