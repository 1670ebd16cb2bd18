"""From the gradients of the parts of a batch to one update, the same on all workers.

`Exact` cuts a batch in virtual shards. Each is computed on its own, from the same weights and the same BatchNorm
statistics, and what comes out is added up in one fixed tree over the virtual shards, not over the workers: 1, 2, 3 or
8 workers give the same bits. `Fast` lets DistributedDataParallel average over the workers: quicker, but other numbers
of workers give other weights, because additions of floating-point numbers in another order have another sum, and
because BatchNorm sees larger parts where there are fewer workers.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from metasr.context import WorkerContext, share
from metasr.training.schedule import InTurn, Lanes, Part, Sum, roots, schedule
from metasr.training.statistics import Statistics

Terms = TypeVar("Terms", bound="tuple[Tensor, ...]")


class Reduction(Protocol):
    """Computes gradients on this worker and averages them over all."""

    def parts(self, batch_size: int) -> list[slice]:
        """Return what this worker computes at once, each as patches within the batch."""

    def backward(self, parameters: Sequence[nn.Parameter], losses: Iterable[Terms]) -> Terms:
        """Set the gradient of each parameter to that of the whole batch.

        Args:
            parameters: All of them must have part in each loss.
            losses: For each part the terms of its loss, scalars, the first of which is descended. They are asked for
                one after the other: between two of them the part's gradients are computed.

        Returns:
            The terms of the whole batch, without gradients.
        """

    def settle(self, finite: Tensor) -> None:
        """Decide on the BatchNorm statistics of the newest `backward`: new ones where `finite`, else those before."""


class Fast:
    """One part on each worker; the networks are wrapped in DistributedDataParallel.

    Args:
        context: Whose workers share the batch.
        modules: Networks whose buffers a pass changes.
    """

    def __init__(self, context: WorkerContext, modules: Iterable[nn.Module]) -> None:
        self._context = context
        self._statistics = Statistics(modules)

    def parts(self, batch_size: int) -> list[slice]:
        """Return this worker's patches, as one part."""
        mine = share(batch_size, self._context)
        return [slice(mine.start, mine.stop)]

    def backward(self, parameters: Sequence[nn.Parameter], losses: Iterable[Terms]) -> Terms:
        """Have the gradients averaged on the way back; see `Reduction`."""
        self._before = self._statistics.read()
        for parameter in parameters:
            parameter.grad = None
        (terms,) = losses
        terms[0].backward()
        return _like(terms, self._context.average(torch.stack(terms).detach()))

    def settle(self, finite: Tensor) -> None:
        """Go back to the buffers before, or not; see `Reduction`."""
        self._statistics.write(torch.where(finite, self._statistics.read(), self._before))


class Exact:
    """Virtual shards, added up in a tree.

    Args:
        context: Whose workers share the virtual shards.
        num_shards: Virtual shards, a power of two, at least the number of workers.
        modules: Networks whose buffers (BatchNorm's running statistics) a pass changes: each virtual shard starts
            from the same ones, and their mean is kept.
        lanes: Where this worker's virtual shards are computed.
    """

    def __init__(
        self, context: WorkerContext, num_shards: int, modules: Iterable[nn.Module], lanes: Lanes | None = None
    ) -> None:
        self._context, self._num_shards = context, num_shards
        self._shards = share(num_shards, context)
        self._lanes: Lanes = lanes or InTurn()
        self._statistics = Statistics(modules, num_copies=len(self._shards))

    def parts(self, batch_size: int) -> list[slice]:
        """Return the patches of each of this worker's virtual shards."""
        size = batch_size // self._num_shards
        return [slice(i * size, (i + 1) * size) for i in self._shards]

    def backward(self, parameters: Sequence[nn.Parameter], losses: Iterable[Terms]) -> Terms:
        """Add up the virtual shards' gradients, buffers and losses; see `Reduction`."""
        of_parts, sums, used = iter(losses), dict[int, Tensor](), list[Tensor]()
        for task in schedule(self._shards):
            if isinstance(task, Part):
                with self._lanes.on(task.shard), self._statistics.on_copy(task.shard - self._shards.start):
                    terms = next(of_parts)
                    gradients = torch.autograd.grad(terms[0], parameters)
                    with torch.no_grad():
                        values = [*(one.flatten() for one in gradients), self._statistics.read(), torch.stack(terms)]
                        sums[task.shard] = torch.cat(values)
            else:
                with self._lanes.on(task.left, after=task.right):
                    used.append(sums.pop(task.right))  # its memory is not free before all lanes are joined
                    sums[task.left].add_(used[-1])
        self._lanes.join()
        mean = self._over_workers(sums) / self._num_shards
        sizes = [parameter.numel() for parameter in parameters]
        *shaped, self._mean, found = mean.split([*sizes, self._statistics.numel, len(terms)])
        for parameter, gradient in zip(parameters, shaped, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return _like(terms, found)

    def settle(self, finite: Tensor) -> None:
        """Take the mean of the virtual shards' buffers, or not; see `Reduction`."""
        self._statistics.write(torch.where(finite, self._mean, self._statistics.read()))

    def _over_workers(self, sums: dict[int, Tensor]) -> Tensor:
        """Return the sum over all virtual shards from the sums of each worker's own."""
        num_workers = self._context.num_workers
        if num_workers == 1:
            return sums[0]
        theirs = [roots(share(self._num_shards, self._context, rank)) for rank in range(num_workers)]
        mine = torch.stack([sums[root] for root in sorted(sums)])
        rows = nn.functional.pad(mine, (0, 0, 0, max(map(len, theirs)) - len(mine)))
        whole = dict[int, Tensor]()
        for lanes, values in zip(theirs, self._context.gather(rows), strict=True):
            whole |= zip(lanes, values, strict=False)
        for task in schedule(range(self._num_shards)):
            if isinstance(task, Sum) and task.right in whole:
                whole[task.left].add_(whole.pop(task.right))
        return whole[0]


def _like(terms: Terms, values: Tensor) -> Terms:
    """Return the values as the same kind of tuple."""
    make = getattr(type(terms), "_make", type(terms))
    result: Terms = make(values.unbind())
    return result
