"""When the store asks again, with a clock that does not tick by itself."""

import random

import pytest

from cluster.store import RetryPolicy, UnavailableError
from cluster.store.errors import Reason
from cluster.store.retry import Retries

PASSING = Reason("the server is busy", "Wait", UnavailableError, "server error")
LASTING = Reason("the key is wrong", "Correct it")


class World:
    """A clock that only sleep and work move, and requests that fail a number of times."""

    def __init__(self, policy, draw=lambda: 1.0):
        self.now, self.pauses, self.calls = 0.0, [], 0
        self.retries = Retries(policy, clock=lambda: self.now, sleep=self.sleep, draw=draw)

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds

    def ask(self, failures, takes_s=0.0, reason=PASSING):
        def request(check):
            self.calls += 1
            self.now += takes_s
            check()
            if self.calls <= failures:
                raise OSError(f"failure {self.calls}")
            return "answer"

        return self.retries.run(request, lambda error: reason)


def test_pauses_double_up_to_their_limit():
    world = World(RetryPolicy(attempts=7, first_pause_s=1, max_pause_s=10))
    assert world.ask(failures=6) == "answer"
    assert world.pauses == [1, 2, 4, 8, 10, 10]


def test_pauses_are_spread_over_all_of_their_range():
    draws = random.Random(1).random
    worlds = [World(RetryPolicy(first_pause_s=1), draws) for _ in range(400)]
    for world in worlds:
        world.ask(failures=1)
    pauses = sorted(world.pauses[0] for world in worlds)
    assert pauses[0] < 0.02
    assert 0.45 < pauses[200] < 0.55
    assert 0.98 < pauses[-1] <= 1


def test_the_last_failure_is_raised_with_what_was_tried():
    world = World(RetryPolicy(attempts=3, first_pause_s=1))
    with pytest.raises(OSError, match="failure 3") as caught:
        world.ask(failures=99)
    assert world.calls == 3
    assert caught.value.__notes__ == ["tried 3 times in 3 s"]


@pytest.mark.parametrize("reason", [LASTING, None])
def test_what_will_not_pass_is_not_tried_again(reason):
    world = World(RetryPolicy())
    with pytest.raises(OSError, match="failure 1"):
        world.ask(failures=99, reason=reason)
    assert world.calls == 1
    assert not world.retries.counts


def test_no_pause_goes_beyond_the_deadline():
    world = World(RetryPolicy(attempts=99, first_pause_s=4, max_pause_s=4, deadline_s=10))
    with pytest.raises(OSError, match="failure 3"):
        world.ask(failures=99)
    assert world.now == 8


def test_a_request_learns_of_the_deadline():
    world = World(RetryPolicy(deadline_s=10))
    with pytest.raises(TimeoutError, match="longer than 10 s"):
        world.ask(failures=0, takes_s=11)
    assert world.calls == 1


def test_when_the_budget_is_spent_each_request_is_tried_once_until_some_have_succeeded():
    world = World(RetryPolicy(attempts=4, budget=8))
    for tries in (4, 4, 3, 1, 1):
        world.calls = 0
        with pytest.raises(OSError, match=f"failure {tries}"):
            world.ask(failures=99)
    for _ in range(2):
        world.ask(failures=0)
    world.calls = 0
    assert world.ask(failures=2) == "answer"
    assert world.retries.counts == {"server error": 10}


def test_success_pays_for_no_more_than_the_budget():
    world = World(RetryPolicy(attempts=9, budget=2))
    for _ in range(20):
        world.ask(failures=0)
    world.calls = 0
    with pytest.raises(OSError, match="failure 3"):
        world.ask(failures=99)


def test_retries_are_counted_by_reason():
    world = World(RetryPolicy())
    world.ask(failures=2)
    world.calls = 0
    world.ask(failures=1, reason=Reason("", "", UnavailableError, "stall"))
    assert world.retries.counts == {"server error": 2, "stall": 1}
