"""What the driver learns of workers that fail, and when it gives up."""

import math

import pytest
import torch
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from cluster.store import UnavailableError
from cluster.training.failures import Failure, RegroupError
from cluster.training.group import NO_WORKERS_S
from cluster.training.listener import failure_of
from cluster.training.mailbox import Mailbox
from metasr.context import Request
from metasr.events import Event

OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which {free} MiB is "
    "free. Process {pid} has 1.25 GiB memory in use."
)
LOST = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
PEER = RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:9: Connection reset by peer.")
BUG = ZeroDivisionError("a bug")


def tell(mailbox, errors):
    mailbox.failed(failure_of(errors))
    return mailbox.take()[1]


@pytest.mark.parametrize(
    ("errors", "reason", "is_bug"),
    [
        ({0: PEER, 1: BUG}, "ZeroDivisionError: a bug (worker 1)", True),
        ({0: torch.distributed.DistBackendError("NCCL"), 3: BUG}, "ZeroDivisionError: a bug (worker 3)", True),
        ({0: PEER, 1: LOST}, "ActorDiedError: ", False),
        ({0: BUG, 1: LOST}, "ActorDiedError: ", False),
        ({0: PEER}, "RuntimeError: ", False),
        ({0: UnavailableError("s3://b", "no answer", "Wait")}, "UnavailableError: ", False),
    ],
)
def test_the_reason_of_a_failure_is_that_of_the_worker_that_failed_first(errors, reason, is_bug):
    failure = failure_of(errors)
    assert failure.reason.startswith(reason)
    assert failure.is_bug is is_bug


def test_a_group_that_ends_on_purpose_or_with_its_machine_has_not_failed():
    taken_away = ActorDiedError()
    taken_away._preempted = True
    assert failure_of({0: RegroupError()}) is None
    assert failure_of({0: PEER, 1: WorkerHealthCheckFailedError("", taken_away)}) is None


def test_bugs_that_differ_in_numbers_alone_are_the_same_and_end_the_run():
    mailbox = Mailbox(max_failures=8)
    for pid, free in ((4211, "5.06"), (4377, "7.12")):
        assert tell(mailbox, {0: torch.OutOfMemoryError(OUT_OF_MEMORY.format(pid=pid, free=free))}) is None
    last = tell(mailbox, {0: torch.OutOfMemoryError(OUT_OF_MEMORY.format(pid=4519, free="5.5"))})
    assert "training failed 3 times in the same way: OutOfMemoryError: CUDA out of memory" in str(last)


def test_the_death_of_a_worker_is_no_bug_and_ends_the_run_after_as_many_as_are_allowed():
    mailbox = Mailbox(max_failures=8)
    assert [tell(mailbox, {0: PEER, 1: LOST}) for _ in range(8)] == [None] * 8
    assert "training failed 9 times without a newer checkpoint: ActorDiedError" in str(tell(mailbox, {1: LOST}))


def test_failures_between_which_training_came_further_end_no_run():
    mailbox = Mailbox(max_failures=1)
    for step in range(1, 6):
        assert tell(mailbox, {0: BUG}) is None
        mailbox.put(Event("kept", step))


def test_a_checkpoint_that_was_kept_before_is_no_progress():
    mailbox = Mailbox(max_failures=2)
    errors = []
    for _ in range(3):
        mailbox.put(Event("kept", 10))
        errors.append(tell(mailbox, {0: LOST}))
    assert errors[:2] == [None, None]
    assert errors[2] is not None


def test_without_another_try_the_first_failure_ends_the_run():
    mailbox = Mailbox(max_failures=0)
    mailbox.failed(Failure("a reason", is_bug=False))
    assert str(mailbox.take()[1]).startswith("training failed: a reason.")


def test_a_group_is_asked_to_make_way_until_another_is_there():
    mailbox = Mailbox(max_failures=0)
    mailbox.grow()
    assert mailbox.requested() == Request.STOP
    assert mailbox.regroups()
    mailbox.put(Event("group", 0, {"num_workers": 2}))
    assert mailbox.requested() == Request.NONE


def test_a_group_that_was_to_make_way_ends_for_good_where_that_was_asked_for():
    mailbox = Mailbox(max_failures=0)
    mailbox.grow()
    mailbox.request(Request.STOP)
    assert not mailbox.regroups()


def test_the_driver_learns_whether_any_worker_asks_for_requests():
    mailbox = Mailbox(max_failures=0)
    assert mailbox.take().silent_s == math.inf
    mailbox.requested()
    assert mailbox.take().silent_s < NO_WORKERS_S


def test_a_group_is_stalled_when_none_of_its_workers_makes_progress():
    mailbox = Mailbox(max_failures=0)
    assert mailbox.stalled_s(has_progressed=False) == math.inf
    mailbox.stalled_s(has_progressed=True)
    assert mailbox.stalled_s(has_progressed=False) < 60
