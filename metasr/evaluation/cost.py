"""The cost of methods: parameters, multiplications, seconds."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from metasr.data.slices import slice_lengths
from metasr.evaluation.methods import Method
from metasr.evaluation.protocol import Evaluation
from metasr.models import SuperResolver
from metasr.scale import Scale

SLICE_PX = 240
VOLUME_SLICES = 155


@dataclass(frozen=True)
class Cost:
    """The cost of a method at a scale.

    Attributes:
        parameters: Number of parameters of the network; None for interpolation.
        macs: Multiply-accumulates for one slice of 240 x 240 HR pixels; None for interpolation.
        seconds_per_slice: Median over the evaluated slices.
        seconds_per_volume: 155 times `seconds_per_slice`.
    """

    method: str
    scale: Scale
    parameters: int | None
    macs: int | None
    seconds_per_slice: float
    seconds_per_volume: float


def costs(methods: Sequence[Method], result: Evaluation) -> list[Cost]:
    """Return the cost of each method at each scale of an evaluation."""
    rows = []
    for method in methods:
        network = method.network
        for scale, name in sorted(result.seconds):
            if name == method.name:
                seconds = median(result.seconds[scale, name])
                macs = None if network is None else count_macs(network, scale)
                rows.append(Cost(name, scale, method.parameters, macs, seconds, seconds * VOLUME_SLICES))
    return rows


def count_macs(network: SuperResolver, scale: Scale) -> int:
    """Return the multiply-accumulates for one gray slice of (about) 240 x 240 HR pixels.

    Count convolutions and matrix products (half of the FLOPs of `torch.utils.flop_counter`), but not interpolation,
    activations and normalisation. Meta-upscale counts in the form that training takes, which multiplies fewer zeros
    than the one that is fastest.
    """
    from torch.utils.flop_counter import (
        FlopCounterMode,
    )  # here, because it imports triton, which a training does not need

    (height, lr_height), (width, lr_width) = (slice_lengths(SLICE_PX, axis) for axis in (scale.rows, scale.columns))
    counted = copy.deepcopy(network).eval().requires_grad_(False)
    lr = torch.zeros(1, 1, lr_height, lr_width, device=next(counted.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        counted(lr, (height, width))
    return int(counter.get_total_flops()) // 2
