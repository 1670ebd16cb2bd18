"""Workers are threads here, which wait for each other where processes would."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from metasr.context import LocalContext, share
from metasr.training.reduction import Exact, Fast
from tests.patience import PATIENCE_S

BATCH = 16


class Together:
    """What the workers of a group share: a place to lay values, and a barrier."""

    def __init__(self, num_workers):
        self.barrier = threading.Barrier(num_workers, timeout=PATIENCE_S)
        self.values = [None] * num_workers


class ThreadContext(LocalContext):
    def __init__(self, rank, together):
        super().__init__(Path(), rank=rank, num_workers=len(together.values))
        self._together = together

    def gather(self, values):
        self._together.values[self.rank] = values
        self._together.barrier.wait()
        found = [value.clone() for value in self._together.values]
        self._together.barrier.wait()
        return found


def network():
    module = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.LeakyReLU(0.2), nn.Conv2d(6, 2, 3), nn.AdaptiveAvgPool2d(1)
    )
    random = torch.Generator().manual_seed(3)  # of its own: the workers are threads of one process
    for parameter in module.parameters():
        parameter.data = torch.rand(parameter.shape, generator=random) - 0.5
    return module


def images():
    return (
        torch.rand((BATCH, 1, 9, 9), generator=torch.Generator().manual_seed(1))
        * torch.linspace(1, 9, BATCH)[:, None, None, None]
    )


def losses(module, parts):
    for part in parts:
        value = module(images()[part])
        yield value.square().mean(), value.mean()


def work(context, num_shards):
    """Compute one worker's part of the gradients of a batch; return gradients, buffers and losses."""
    module = network()
    reduction = Exact(context, num_shards, [module])
    parameters = list(module.parameters())
    found = reduction.backward(parameters, losses(module, reduction.parts(BATCH)))
    reduction.settle(torch.tensor(True))
    return [p.grad for p in parameters], [b.clone() for b in module.buffers()], list(found)


def work_together(num_workers, num_shards):
    together = Together(num_workers)
    with ThreadPoolExecutor(num_workers) as pool:
        return list(pool.map(lambda rank: work(ThreadContext(rank, together), num_shards), range(num_workers)))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("num_workers", "num_shards"), [(2, 4), (3, 4), (4, 4), (2, 8), (3, 8), (5, 8), (7, 8), (8, 8), (6, 16), (11, 16)]
)
def test_any_number_of_workers_computes_the_same_bits(num_workers, num_shards):
    (alone,) = work_together(1, num_shards)
    for worker in work_together(num_workers, num_shards):
        for mine, expected in zip(worker, alone, strict=True):
            for value, other in zip(mine, expected, strict=True):
                assert torch.equal(value, other)


def test_a_gradient_is_the_mean_of_those_of_the_parts():
    gradients, buffers, (square, mean) = work(LocalContext(Path()), 4)
    module = network().double()
    expected, statistics, terms = [], [], []
    for part in images().double().split(4):
        module.load_state_dict(network().double().state_dict())
        value = module(part)
        expected.append(torch.autograd.grad(value.square().mean(), list(module.parameters())))
        statistics.append(module[1].running_var.clone())
        terms.append((value.square().mean().item(), value.mean().item()))
    for gradient, of_parts in zip(gradients, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(gradient.double(), torch.stack(of_parts).mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(buffers[1].double(), torch.stack(statistics).mean(0))
    assert buffers[2] == 1  # batches tracked
    assert (square.item(), mean.item()) == pytest.approx(tuple(torch.tensor(terms).mean(0).tolist()))


def test_the_whole_batch_at_once_has_the_gradient_of_its_loss():
    module, reduction = network(), Fast(LocalContext(Path()), [])
    assert reduction.parts(BATCH) == [slice(0, BATCH)]
    square, _ = reduction.backward(list(module.parameters()), losses(module, [slice(0, BATCH)]))
    other = network()
    expected = other(images()).square().mean()
    gradients = torch.autograd.grad(expected, list(other.parameters()))
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert square == expected


@pytest.mark.parametrize("num_workers", range(1, 9))
def test_workers_share_all_of_the_work_once_and_evenly(num_workers):
    shares = [share(8, LocalContext(Path(), rank=rank, num_workers=num_workers)) for rank in range(num_workers)]
    assert [i for part in shares for i in part] == list(range(8))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
