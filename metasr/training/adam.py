"""Adam without torch's compiler."""

from inspect import unwrap

import torch
from torch import optim


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
