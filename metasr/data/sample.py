"""Which patches make step n: a pure function of the seed and n, so that a run can stop and go on anywhere."""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasr.config import ExperimentConfig
from metasr.data.degrade import Degrade, resize_bicubic
from metasr.data.slices import exact_sizes


class Batch(NamedTuple):
    """LR patches `[B, C, h, w]` and their HR originals `[B, C, H, W]`."""

    lr: Tensor
    hr: Tensor
    scale: Fraction


@dataclass(frozen=True)
class StepPlan:
    """What the whole batch of a step is made of, before any worker takes its part.

    Attributes:
        scale: The one scale of the step.
        hr_px, lr_px: Side of the patches.
        crops: Index of the crop of each patch, `[B]`.
        corners: Top and left of each patch in its crop, in [0, 1], `[B, 2]`.
        flips: Flip rows, flip columns, transpose, `[B, 3]`.
    """

    scale: Fraction
    hr_px: int
    lr_px: int
    crops: NDArray[np.int64]
    corners: NDArray[np.float64]
    flips: NDArray[np.bool_]


def plan_step(config: ExperimentConfig, step: int, num_crops: int) -> StepPlan:
    """Return the plan of step `step` (from 0). Every crop comes once an epoch, in an order of the epoch's own."""
    train = config.train
    random = np.random.default_rng([train.seed, 1, step])
    tenths = int(random.integers(round(train.scale_min * 10), round(train.scale_max * 10) + 1))
    scale = Fraction(tenths, 10)
    hr_px, lr_px = exact_sizes(config.data.patch_px, scale)
    first = step * train.batch_size
    flips = random.integers(0, 2, (train.batch_size, 3), dtype=np.int8).astype(bool)
    return StepPlan(
        scale=scale,
        hr_px=hr_px,
        lr_px=lr_px,
        crops=np.array(
            [
                _epoch_order(train.seed, p // num_crops, num_crops)[p % num_crops]
                for p in range(first, first + train.batch_size)
            ]
        ),
        corners=random.random((train.batch_size, 2)),
        flips=flips & config.data.flips,
    )


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_crops: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 2, epoch]).permutation(num_crops)


def make_batch(crops: Tensor, plan: StepPlan, part: slice, degrade: Degrade = resize_bicubic) -> Batch:
    """Cut and degrade the patches of a worker's part of a step.

    Args:
        crops: All training crops, `[num_crops, C, side, side]`, on any device.
        plan: The plan of the step.
        part: The worker's patches within the batch.
        degrade: Makes LR from HR.
    """
    patches = []
    for index, corner, flips in zip(plan.crops[part], plan.corners[part], plan.flips[part], strict=True):
        crop = crops[int(index)]
        top, left = (int(c * (side - plan.hr_px + 1)) for c, side in zip(corner, crop.shape[1:], strict=True))
        patch = crop[:, top : top + plan.hr_px, left : left + plan.hr_px]
        patches.append(_flip(patch, *flips))
    hr = torch.stack(patches).float()
    return Batch(degrade(hr, (plan.lr_px, plan.lr_px)), hr, plan.scale)


def _flip(patch: Tensor, rows: bool, columns: bool, transpose: bool) -> Tensor:
    if rows:
        patch = patch.flip(1)
    if columns:
        patch = patch.flip(2)
    return patch.transpose(1, 2) if transpose else patch
