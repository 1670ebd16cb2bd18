"""A stand-in for a CUDA graph on a CPU: the tensor operations of a call, done again on the same memory.

Like a graph it knows no Python: numbers that the call took from Python are what they were, and whoever asks a tensor
for its value while a tape is recorded fails, as a GPU that captures would.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

WAITS = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "lift_fresh", "lift_fresh_copy", "equal"}


class Recorder(TorchDispatchMode):
    """Notes all operations, with the tensors that they read and made."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert function.overloadpacket.__name__ not in WAITS, f"{function} makes a GPU wait"
        made = function(*args, **kwargs)
        self.done.append((function, args, kwargs, made))
        return made


class Tape:
    """A `Capture` that computes a call when it is recorded, takes that back, and repeats it from the tape.

    Args:
        tensors: Returns what a call changes.
    """

    def __init__(self, tensors):
        self._tensors = tensors
        self.num_replays = 0

    def warm_up(self, call):
        return call()

    def record(self, call):
        before = [tensor.detach().clone() for tensor in self._tensors()]
        with Recorder() as recorder:
            result = call()
        with torch.no_grad():
            for tensor, value in zip(self._tensors(), before, strict=True):
                tensor.copy_(value)

        def replay():
            self.num_replays += 1
            with torch.no_grad():
                for step in recorder.done:
                    again(*step)
            return result

        return replay


def again(function, args, kwargs, made):
    """Do an operation again, into the memory of what it made the first time."""
    given = {tensor.untyped_storage().data_ptr() for tensor in tensors_in((args, kwargs))}
    fresh = function(*args, **kwargs)
    for old, new in zip(tensors_in(made), tensors_in(fresh), strict=True):
        if old.untyped_storage().data_ptr() not in given:  # neither a view nor changed in place
            old.copy_(new)


def tensors_in(tree):
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]
