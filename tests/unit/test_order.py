from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from metasr.data.crops import MemoryCrops
from metasr.data.order import SampleOrder

SIZES = (7, 1, 12, 5, 3, 9)


def epochs_of(order, number):
    return order.samples(0, 0, number * len(order)).reshape(number, len(order))


def shard_of(sample, sizes):
    return int(np.searchsorted(np.cumsum(sizes), sample, side="right"))


@pytest.mark.parametrize("window", [1, 2, 4, 100])
def test_every_sample_comes_once_an_epoch(window):
    epochs = epochs_of(SampleOrder(SIZES, window, seed=0), 5)
    assert (np.sort(epochs, axis=1) == np.arange(sum(SIZES))).all()


@pytest.mark.parametrize("sizes", [(40,), SIZES])
def test_epochs_and_seeds_differ_in_their_order(sizes):
    epochs = [epoch for seed in range(3) for epoch in epochs_of(SampleOrder(sizes, 2, seed), 4)]
    assert len({epoch.tobytes() for epoch in epochs}) == 12


@pytest.mark.parametrize("batch", [1, 4, 10, 37, 90])
def test_any_position_can_be_asked_for_at_once(batch):
    order = SampleOrder(SIZES, 2, seed=3)
    run = order.samples(0, 0, 9 * len(order))
    for first in reversed(range(0, len(run) - batch, batch)):
        np.testing.assert_array_equal(order.samples(0, first, batch), run[first : first + batch])


def test_samples_of_a_window_are_mixed_and_those_of_others_wait():
    order = SampleOrder((20,) * 6, 2, seed=1)
    for epoch in epochs_of(order, 3):
        windows = [[shard_of(sample, order.shard_sizes) for sample in part] for part in epoch.reshape(3, 40)]
        assert all(len(set(window)) == 2 for window in windows)
        assert len({shard for window in windows for shard in window}) == 6
        assert all(sum(a != b for a, b in pairwise(window)) > 10 for window in windows)


def test_with_one_window_an_epoch_is_a_random_permutation_of_all():
    order = SampleOrder((10,) * 8, 8, seed=0)
    firsts = [epoch[:10].mean() for epoch in epochs_of(order, 200)]
    assert np.mean(firsts) == pytest.approx(39.5, abs=2)


@pytest.mark.parametrize("first", [0, 5, 37, 200])
def test_the_shards_ahead_are_those_of_the_samples_ahead(first):
    order = SampleOrder(SIZES, 2, seed=2)
    seen = []
    for sample in order.samples(0, first, 3 * len(order)):
        shard = shard_of(sample, SIZES)
        if shard not in seen[-2:]:
            seen.append(shard)
    ahead = [shard for window in islice(order.windows(0, first), len(seen)) for shard in window.shards]
    # Within a window of two shards, which of them is seen first is up to the samples.
    assert [set(seen[i : i + 2]) for i in range(0, 12, 2)] == [set(ahead[i : i + 2]) for i in range(0, 12, 2)]


def test_a_stream_can_start_at_any_step_and_parts_make_up_the_batch():
    crops = torch.arange(10.0).view(10, 1, 1, 1)
    order = SampleOrder((10,), 1, seed=0, num_virtual_shards=2)
    source = MemoryCrops(crops)
    whole = list(islice(source.stream(order, first_step=0, batch_size=4, part=slice(0, 4)), 10))
    later = next(source.stream(order, first_step=5, batch_size=4, part=slice(0, 4)))
    assert torch.equal(later, whole[5])
    halves = [next(source.stream(order, first_step=5, batch_size=4, part=p)) for p in (slice(0, 2), slice(2, 4))]
    assert torch.equal(torch.cat(halves), whole[5])
    assert sorted(torch.cat(whole[:5]).flatten().tolist()) == sorted([*range(10)] * 2)


# Virtual shards


NUM_VIRTUAL_SHARDS = pytest.mark.parametrize("num_virtual_shards", [1, 2, 3, 8, 64])


def segments_by_epoch(order, number):
    """What virtual shards give in the first epochs, `[epoch][virtual shard]`, by how long their segments must be."""
    total = order.num_virtual_shards
    cuts = [k * len(order) // total for k in range(total + number + 1)]
    return [
        [
            order.samples(one, cuts[one + epoch] - cuts[one], cuts[one + epoch + 1] - cuts[one + epoch])
            for one in range(total)
        ]
        for epoch in range(number)
    ]


@NUM_VIRTUAL_SHARDS
@pytest.mark.parametrize("window", [1, 4, 100])
@pytest.mark.parametrize("sizes", [SIZES, (3,), (1, 1), (40,) * 10], ids=["uneven", "tiny", "two", "many"])
def test_all_virtual_shards_together_give_every_sample_once_an_epoch(sizes, window, num_virtual_shards):
    order = SampleOrder(sizes, window, seed=0, num_virtual_shards=num_virtual_shards)
    for segments in segments_by_epoch(order, num_virtual_shards + 2):
        assert max(map(len, segments)) - min(map(len, segments)) <= 1
        assert sorted(np.concatenate(segments).tolist()) == [*range(sum(sizes))]


@pytest.mark.parametrize("num_virtual_shards", [2, 3, 8])
def test_after_as_many_epochs_as_there_are_virtual_shards_all_have_gone_equally_far(num_virtual_shards):
    order = SampleOrder(SIZES, 2, seed=0, num_virtual_shards=num_virtual_shards)
    epochs = segments_by_epoch(order, num_virtual_shards)
    gone = [sum(len(epoch[one]) for epoch in epochs) for one in range(num_virtual_shards)]
    assert gone == [len(order)] * num_virtual_shards


@NUM_VIRTUAL_SHARDS
def test_a_step_takes_equally_many_samples_of_every_virtual_shard_one_after_the_other(num_virtual_shards):
    order = SampleOrder(SIZES, 3, seed=4, num_virtual_shards=num_virtual_shards)
    for step in (0, 1, 17):
        expected = [order.samples(one, 3 * step, 3) for one in range(num_virtual_shards)]
        np.testing.assert_array_equal(order.step(step, 3 * num_virtual_shards), np.concatenate(expected))


def test_a_virtual_shard_touches_its_share_of_the_shards_and_no_more():
    order = SampleOrder((20,) * 32, 16, seed=0, num_virtual_shards=8)
    for segments in segments_by_epoch(order, 10):
        touched = [{shard_of(sample, order.shard_sizes) for sample in segment} for segment in segments]
        assert [len(shards) for shards in touched] == [4] * 8
        assert len(set.union(*touched)) == 32


def test_a_virtual_shard_mixes_as_many_shards_as_its_share_of_the_window():
    order = SampleOrder((20,) * 32, 16, seed=0, num_virtual_shards=8)
    windows = list(islice(order.windows(3, 0), 20))
    assert {len(window.shards) for window in windows} == {2}
    assert [window.stop for window in windows[:-1]] == [window.start for window in windows[1:]]
    alone = SampleOrder((20,) * 32, 1, seed=0, num_virtual_shards=8)
    assert {len(window.shards) for window in islice(alone.windows(3, 0), 20)} == {1}


def test_virtual_shards_that_share_a_shard_share_it_by_lot():
    order = SampleOrder((800,), 8, seed=0, num_virtual_shards=8)
    for segment in segments_by_epoch(order, 1)[0]:
        assert np.mean(segment) == pytest.approx(399.5, abs=100)
        assert np.ptp(segment) > 600


@pytest.mark.parametrize(
    ("batch", "part"), [(10, slice(0, 5)), (8, slice(0, 3)), (8, slice(1, 4)), (8, slice(4, 4)), (8, slice(0, 8, 2))]
)
def test_a_part_that_is_not_made_of_whole_virtual_shards_is_refused(batch, part):
    order = SampleOrder(SIZES, 2, seed=0, num_virtual_shards=4)
    with pytest.raises(ValueError, match="virtual shards"):
        next(MemoryCrops(torch.zeros(37, 1, 1, 1)).stream(order, first_step=0, batch_size=batch, part=part))
