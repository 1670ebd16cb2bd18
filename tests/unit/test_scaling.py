"""The arithmetic of training on many GPUs, from figures made up here."""

import pytest

from tests.benchmarks.scaling import GPUS, Link, Plan, Step, gradient_bytes, table

LINK = Link("a link", bytes_per_s=1e9, latency_s=1e-3)


def plan(**changes):
    figures = {
        "step": Step(fixed_s=0.02, patch_s=0.001),
        "gradients": (4_000_000, 20_000_000),
        "patches": 10,
        "steps": 36_000,
        "critical_batch": 90.0,
        "dollars_per_hour": 2.0,
    }
    return Plan(**figures | changes)


def test_a_ring_sends_nearly_twice_the_bytes_in_twice_as_many_messages_as_there_are_others():
    assert LINK.all_reduce_s(8_000_000, 1) == 0
    assert LINK.all_reduce_s(8_000_000, 2) == pytest.approx(0.008 + 0.002)
    assert LINK.all_reduce_s(8_000_000, 4) == pytest.approx(0.012 + 0.006)


def test_a_step_is_that_of_one_gpu_and_a_reduction_of_each_network():
    assert plan().step_s(LINK, 1) == pytest.approx(0.03)
    assert plan().step_s(LINK, 2) == pytest.approx(0.03 + (0.004 + 0.002) + (0.020 + 0.002))


def test_larger_batches_save_steps_up_to_the_fewest_possible():
    assert plan().num_steps(1) == 36_000
    assert plan().num_steps(9) == pytest.approx(7_200)  # the critical batch: twice the fewest
    assert plan().num_steps(10**9) == pytest.approx(3_600)


def test_hours_and_dollars():
    assert plan().hours(LINK, 1) == pytest.approx(0.3)
    assert plan().dollars(LINK, 1) == pytest.approx(0.6)
    free = Link("at no cost", bytes_per_s=1e30, latency_s=0.0)
    assert plan().hours(free, 9) == pytest.approx(0.06)
    assert plan().dollars(free, 9) == pytest.approx(1.08)


def test_more_gpus_pay_until_twice_of_them_gain_too_little():
    slow = Link("slow", bytes_per_s=1e6, latency_s=1.0)
    free = Link("at no cost", bytes_per_s=1e30, latency_s=0.0)
    assert plan().most_useful(slow, 1.25) == 1
    assert plan().most_useful(free, 1.25) == 16  # 7,650 steps with 8, 5,625 with 16, 4,612 with 32
    assert plan(critical_batch=1e9).most_useful(free, 1.25) == GPUS[-1]


def test_the_table_has_a_row_for_each_number_of_gpus_and_a_sentence_for_each_link():
    lines = table(plan(), [LINK], 1.25).splitlines()
    assert lines[2] == "| 1 | 10 | 36,000 | 30.0 | 0% | 0.30 | 1 |"
    assert [line.split(" | ")[0] for line in lines[2:12]] == [f"| {gpus}" for gpus in GPUS]
    assert "20% less time" in lines[-1]


def test_gradients_are_those_of_the_default_networks():
    assert gradient_bytes()[1] == 4 * 5_214_273
