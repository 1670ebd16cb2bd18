"""Adam without torch's compiler, and a step that is left out where its gradient is not finite."""

from collections.abc import Iterable
from inspect import unwrap

import torch
from torch import Tensor, nn, optim


class Adam(optim.Adam):
    """torch's Adam, bit for bit, in a process that never imports torch's compiler.

    torch imports the compiler (with sympy, 800 modules: four seconds of a core) when an optimiser is first made, only
    to keep the compiler out of it. A worker would pay that at each start, also after a fault. These are the same
    methods without what torch wraps around them for the compiler's sake.
    """

    step = torch.no_grad()(unwrap(optim.Adam.step))
    add_param_group = unwrap(optim.Adam.add_param_group)
    zero_grad = unwrap(optim.Adam.zero_grad)
    state_dict = unwrap(optim.Adam.state_dict)
    load_state_dict = unwrap(optim.Adam.load_state_dict)


def adam(parameters: Iterable[nn.Parameter], lr: float, device: torch.device) -> Adam:
    """Return Adam for parameters on a device.

    On a GPU its arithmetic is that of one fused kernel, which reads learning rate and count of steps from the GPU's
    memory: a CUDA graph can repeat it with other ones.
    """
    if device.type != "cuda":
        return Adam(parameters, lr=lr)
    return Adam(parameters, lr=torch.tensor(lr, device=device), fused=True, capturable=True)


def set_learning_rate(optimiser: optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the coming step, where the optimiser reads it."""
    group = optimiser.param_groups[0]
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def step_where(finite: Tensor, optimiser: optim.Optimizer) -> None:
    """Take a step if `finite`, a boolean scalar, is true; else change neither weights nor moments nor counts.

    A fused optimiser decides that on its device. Others are looked at here, which costs nothing on a CPU.
    """
    if optimiser.defaults.get("fused"):
        optimiser.found_inf = (~finite).float()  # type: ignore[attr-defined]  # what torch's GradScaler sets
        optimiser.step()
    elif finite:
        optimiser.step()
