"""What the driver learns of workers that crash."""

from cluster.mailbox import Mailbox
from cluster.watch import Event

OUT_OF_MEMORY = (
    "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of "
    "which {free} MiB is free. Process {pid} has 1.25 GiB memory in use."
)


def test_crashes_that_differ_in_numbers_alone_are_the_same_and_end_the_run():
    mailbox = Mailbox()
    for pid, free in ((4211, "5.06"), (4377, "7.12"), (4519, "5.5")):
        assert mailbox.take()[1] is None
        mailbox.crash(OUT_OF_MEMORY.format(pid=pid, free=free))
    assert "training failed 3 times in the same way: OutOfMemoryError: CUDA out of memory" in str(mailbox.take()[1])


def test_crashes_between_which_a_checkpoint_was_kept_end_no_run():
    mailbox = Mailbox()
    for _ in range(5):
        mailbox.crash("RuntimeError: a network that comes and goes")
        mailbox.put(Event("kept", 1))
    assert mailbox.take()[1] is None
