"""From the gradients of the parts of a batch to one update, the same on all workers.

`Exact` cuts a batch in virtual shards. Each is computed on its own, from the same weights and the same BatchNorm
statistics, and what comes out is added up in one fixed tree over the virtual shards, not over the workers: 1, 2, 3 or
8 workers give the same bits. `Fast` lets DistributedDataParallel average over the workers: quicker, but other numbers
of workers give other weights, because additions of floating-point numbers in another order have another sum, and
because BatchNorm sees larger parts where there are fewer workers.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from metasr.context import WorkerContext, share

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


class Fast:
    """One part on each worker; the networks are wrapped in DistributedDataParallel."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context

    def parts(self, batch_size: int) -> list[slice]:
        """Return this worker's patches, as one part."""
        mine = share(batch_size, self._context)
        return [slice(mine.start, mine.stop)]

    def backward(self, parameters: Sequence[nn.Parameter], losses: Iterable[Terms]) -> Terms:
        """Have the gradients averaged on the way back; see `Reduction`."""
        for parameter in parameters:
            parameter.grad = None
        (terms,) = losses
        terms[0].backward()
        return _like(terms, self._context.average(torch.stack(terms).detach()))


class Exact:
    """Virtual shards, added up in a tree.

    Args:
        context: Whose workers share the virtual shards.
        num_shards: Virtual shards, a power of two, at least the number of workers.
        modules: Networks whose buffers (BatchNorm's running statistics) a pass changes: each virtual shard starts
            from the same ones, and their mean is kept.
    """

    def __init__(self, context: WorkerContext, num_shards: int, modules: Iterable[nn.Module]) -> None:
        self._context, self._num_shards = context, num_shards
        self._buffers = [buffer for module in modules for buffer in module.buffers()]

    def parts(self, batch_size: int) -> list[slice]:
        """Return the patches of each of this worker's virtual shards."""
        size = batch_size // self._num_shards
        return [slice(i * size, (i + 1) * size) for i in share(self._num_shards, self._context)]

    def backward(self, parameters: Sequence[nn.Parameter], losses: Iterable[Terms]) -> Terms:
        """Add up the virtual shards' gradients, buffers and losses; see `Reduction`."""
        before = [buffer.clone() for buffer in self._buffers]
        sums: list[_Node] = []
        for shard, terms in zip(share(self._num_shards, self._context), losses, strict=True):
            gradients = torch.autograd.grad(terms[0], parameters)
            with torch.no_grad():
                values = [*gradients, *self._buffers, torch.stack(terms)]
                _push(sums, _Node(0, shard, torch.cat([value.flatten().float() for value in values])))
                copy_all(self._buffers, before)
        mean = self._over_workers(sums) / self._num_shards
        templates = [*parameters, *self._buffers]
        *values, found = mean.split([template.numel() for template in templates] + [len(terms)])
        shaped = [value.view_as(template) for value, template in zip(values, templates, strict=True)]
        for parameter, gradient in zip(parameters, shaped[: len(parameters)], strict=True):
            parameter.grad = gradient
        copy_all(self._buffers, shaped[len(parameters) :])
        return _like(terms, found)

    def _over_workers(self, mine: "list[_Node]") -> Tensor:
        """Return the sum over all virtual shards from the subtrees of each worker."""
        num_workers = self._context.num_workers
        if num_workers == 1:
            return mine[0].value
        theirs = [_subtrees(share(self._num_shards, self._context, rank)) for rank in range(num_workers)]
        rows = torch.zeros(max(map(len, theirs)), len(mine[0].value), device=mine[0].value.device)
        for row, node in zip(rows, mine, strict=False):
            row.copy_(node.value)
        whole: list[_Node] = []
        for subtrees, values in zip(theirs, self._context.gather(rows), strict=True):
            for (level, place), value in zip(subtrees, values, strict=False):
                _push(whole, _Node(level, place, value))
        return whole[0].value


def copy_all(targets: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy each value into its target."""
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)


class _Node(NamedTuple):
    """The sum over a complete subtree: the virtual shards from place * 2**level on, 2**level of them."""

    level: int
    place: int
    value: Tensor


def _push(nodes: list[_Node], node: _Node) -> None:
    """Append the next subtree to the right; siblings become their parent. The left ones are added to in place."""
    while nodes and node.place % 2 and nodes[-1][:2] == (node.level, node.place - 1):
        node = _Node(node.level + 1, node.place // 2, nodes.pop().value.add_(node.value))
    nodes.append(node)


def _subtrees(shards: range) -> list[tuple[int, int]]:
    """Return level and place of the largest complete subtrees that make up a worker's virtual shards."""
    nodes: list[_Node] = []
    for shard in shards:
        _push(nodes, _Node(0, shard, torch.zeros(())))
    return [node[:2] for node in nodes]


def _like(terms: Terms, values: Tensor) -> Terms:
    """Return the values as the same kind of tuple."""
    make = getattr(type(terms), "_make", type(terms))
    result: Terms = make(values.unbind())
    return result
