"""What a pass in training mode changes beside gradients: the buffers of BatchNorm."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Statistics:
    """The buffers of networks: BatchNorm's running statistics, and what never changes.

    Args:
        modules: The networks.
        num_copies: Parts of a batch that start from the same buffers, each on a copy of its own.
    """

    def __init__(self, modules: Iterable[nn.Module], num_copies: int = 0) -> None:
        places = [place for module in modules for owner in module.modules() for place in _places(owner)]
        self._places = list({id(getattr(*place)): place for place in places}.values())
        self._buffers = [getattr(*place) for place in self._places]
        self._copies = [[torch.empty_like(buffer) for buffer in self._buffers] for _ in range(num_copies)]
        self.numel = sum(buffer.numel() for buffer in self._buffers)

    def read(self) -> Tensor:
        """Return what the networks' buffers hold now, as one vector."""
        if not self._buffers:
            return torch.zeros(0)
        return torch.cat([getattr(*place).flatten().float() for place in self._places])

    def write(self, values: Tensor) -> None:
        """Set the buffers to what such a vector holds."""
        if not self._buffers:
            return
        parts = values.split([buffer.numel() for buffer in self._buffers])
        for buffer, part in zip(self._buffers, parts, strict=True):
            buffer.copy_(part.view_as(buffer))

    @contextmanager
    def on_copy(self, number: int) -> Iterator[None]:
        """Let the networks work on a copy, which starts from the buffers and leaves them as they are."""
        for (owner, name), copy, buffer in zip(self._places, self._copies[number], self._buffers, strict=True):
            setattr(owner, name, copy.copy_(buffer))
        try:
            yield
        finally:
            for (owner, name), buffer in zip(self._places, self._buffers, strict=True):
                setattr(owner, name, buffer)


def _places(owner: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(owner, name) for name, _ in owner.named_buffers(recurse=False)]
