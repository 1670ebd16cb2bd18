"""Steps of one kind are captured once as a CUDA graph, and repeated by a single launch.

At the sizes of this training a GPU computes a kernel sooner than the processor launches the next one. A graph is a
whole step, thousands of kernels, with the addresses that they read and write. So a graph needs static inputs, into
which each batch is copied, and whatever else changes from step to step must lie on the device (`whole_step.py`).

Nothing in a step draws random numbers on the device, and no step is computed that does not count: the first of a kind
is computed as it stands, which also warms up the libraries, the second is captured, which computes nothing, and
launched, as are all after it. So a run may stop and resume anywhere, and does not know which steps were launched how.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from metasr.data.sample import Batch

Result = Mapping[str, Tensor]
Call = Callable[[], Result]
Step = Callable[[Hashable, Sequence[Batch]], Result]
MOST_KINDS = 64  # each graph has thousands of nodes; their memory is shared


class Capture(Protocol):
    """Makes a call repeatable."""

    def warm_up(self, call: Call) -> Result:
        """Do a call as it stands, and return its result."""

    def record(self, call: Call) -> Call:
        """Return what repeats a call, on the same memory, without doing it now. Results last until the next call."""


class Direct:
    """Repeats a call by doing it again: on a CPU, or to compare with."""

    def warm_up(self, call: Call) -> Result:
        """Do the call."""
        return call()

    def record(self, call: Call) -> Call:
        """Return the call."""
        return call


class Cuda:
    """Repeats a call as a CUDA graph. All graphs share memory, as only one of them runs at a time.

    Args:
        device: A GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream, self._memory = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def warm_up(self, call: Call) -> Result:
        """Do the call on the stream on which calls are captured."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = call()
        current.wait_stream(self._stream)
        return result

    def record(self, call: Call) -> Call:
        """Capture the call; other threads may go on using the GPU."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local"):
            result = call()

        def replay() -> Result:
            graph.replay()
            return result

        return replay


class Checked:
    """Trusts no repetition before its first one has equalled the call itself, bit for bit; else makes calls alone.

    Args:
        capture: What is not trusted.
        tensors: Returns all that a call changes.
        tell: Called with a line where the two differ.
    """

    def __init__(
        self, capture: Capture, tensors: Callable[[], Sequence[Tensor]], tell: Callable[[str], None]
    ) -> None:
        self._capture, self._tensors, self._tell = capture, tensors, tell
        self._is_refused = False

    def warm_up(self, call: Call) -> Result:
        """Do the call as it stands."""
        return self._capture.warm_up(call)

    def record(self, call: Call) -> Call:
        """Return what repeats the call, and compares the first time."""
        if self._is_refused:
            return call
        replay, is_new = self._capture.record(call), True

        def checked() -> Result:
            nonlocal is_new
            if self._is_refused or not is_new:
                return call() if self._is_refused else replay()
            is_new = False
            return self._compared(replay, call)

        return checked

    def _compared(self, replay: Call, call: Call) -> Result:
        """Do both, each from the state that is there, and leave what the call itself makes."""
        tensors = self._tensors()
        before = [tensor.clone() for tensor in tensors]
        repeated = [tensor.clone() for tensor in (*replay().values(), *tensors)]
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
        result = self._capture.warm_up(call)
        if not all(map(torch.equal, repeated, (*result.values(), *tensors))):
            self._is_refused = True
            self._tell("a CUDA graph gave other bits than the step itself: steps are computed without graphs")
        return result


@dataclass
class _Kind:
    """What is kept of the steps of one kind: their inputs, and once it was captured, the step."""

    inputs: list[Batch]
    replay: Call | None = None


class Graphs:
    """Does steps, each kind of them with a graph of its own; those used last are kept.

    Args:
        step: Does a step of a kind. For steps of a kind the batches have the same shapes, and what the step computes
            depends on nothing but them and what lies on the device.
        capture: How.
    """

    def __init__(self, step: Step, capture: Capture) -> None:
        self._step, self._capture = step, capture
        self._kinds: dict[Hashable, _Kind] = {}

    def run(self, kind: Hashable, parts: Sequence[Batch]) -> Result:
        """Do a step; return its result, which lasts until the next one."""
        known = self._kinds.pop(kind, None)
        if known is None:
            known = _Kind([Batch(part.lr.clone(), part.hr.clone(), part.scale) for part in parts])
            self._kinds[kind] = known
            if len(self._kinds) > MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            return self._capture.warm_up(partial(self._step, kind, known.inputs))
        self._kinds[kind] = known  # now the one used last
        for static, part in zip(known.inputs, parts, strict=True):
            static.lr.copy_(part.lr)
            static.hr.copy_(part.hr)
        if known.replay is None:
            known.replay = self._capture.record(partial(self._step, kind, known.inputs))
        return known.replay()
