"""Which parts are computed and added in which order: one tree, whoever computes what."""

import pytest

from metasr.context import LocalContext, share
from metasr.training.schedule import Part, Sum, roots, schedule


def test_four_parts_are_added_in_pairs_as_soon_as_both_are_there():
    assert list(schedule(range(4))) == [Part(0), Part(1), Sum(0, 1), Part(2), Part(3), Sum(2, 3), Sum(0, 2)]


def test_what_is_not_complete_is_left():
    assert list(schedule(range(1, 4))) == [Part(1), Part(2), Part(3), Sum(2, 3)]
    assert roots(range(1, 4)) == [1, 2]
    assert roots(range(0, 8)) == [0]
    assert roots(range(3, 8)) == [3, 4]


@pytest.mark.parametrize("shards", [range(1), range(16), range(3, 11), range(5, 6)])
def test_each_part_is_computed_once_and_no_lane_is_added_before_it_is_there_or_twice(shards):
    there = set()
    for task in schedule(shards):
        if isinstance(task, Part):
            assert task.shard not in there
            there.add(task.shard)
        else:
            assert {task.left, task.right} <= there
            there.remove(task.right)
    assert sorted(there) == roots(shards)
    assert [task.shard for task in schedule(shards) if isinstance(task, Part)] == list(shards)


@pytest.mark.parametrize("num_workers", range(1, 9))
def test_workers_add_what_one_alone_adds(num_workers):
    alone = {task for task in schedule(range(8)) if isinstance(task, Sum)}
    shares = [share(8, LocalContext(None, rank=rank, num_workers=num_workers)) for rank in range(num_workers)]
    theirs = {task for shards in shares for task in schedule(shards) if isinstance(task, Sum)}
    assert theirs <= alone
    left = {root for shards in shares for root in roots(shards)}
    assert {task.right for task in alone - theirs} == left - {0}
