"""How patches are cut and augmented at step n: a function of seed and n alone, so that a run can resume anywhere."""

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from metasr.config import ExperimentConfig
from metasr.data.degrade import Degradation
from metasr.data.slices import exact_sizes

PLACES_TRIED = 8
BICUBIC = Degradation()


class Batch(NamedTuple):
    """LR patches `[B, C, h, w]` and their HR originals `[B, C, H, W]`."""

    lr: Tensor
    hr: Tensor
    scale: Fraction


@dataclass(frozen=True)
class StepPlan:
    """The random choices for the whole batch of a step, of which each worker takes its part.

    Attributes:
        scale: The one scale of the step.
        hr_px, lr_px: Side of the patches.
        corners: Top and left of the places to try for each patch in its crop, in [0, 1], `[B, places, 2]`.
        flips: Flip rows, flip columns, transpose, `[B, 3]`.
        gains: Factor on the intensities of each patch, `[B]`.
        noise_seeds: Decides the noise on each LR patch, `[B]`.
    """

    scale: Fraction
    hr_px: int
    lr_px: int
    corners: NDArray[np.float64]
    flips: NDArray[np.bool_]
    gains: NDArray[np.float64]
    noise_seeds: NDArray[np.int64]


def plan_step(config: ExperimentConfig, step: int) -> StepPlan:
    """Return the plan of step `step` (from 0)."""
    train, data = config.train, config.data
    random = np.random.default_rng([train.seed, 1, step])
    tenths = int(random.integers(round(train.scale_min * 10), round(train.scale_max * 10) + 1))
    scale = Fraction(tenths, 10)
    within_px = min(data.patch_px, int(data.lr_patch_px * scale)) if data.lr_patch_px else data.patch_px
    hr_px, lr_px = exact_sizes(within_px, scale)
    flips = random.integers(0, 2, (train.batch_size, 3), dtype=np.int8).astype(bool)
    places = PLACES_TRIED if data.min_brain else 1
    return StepPlan(
        scale=scale,
        hr_px=hr_px,
        lr_px=lr_px,
        corners=random.random((train.batch_size, places, 2)),
        flips=flips & data.flips,
        gains=1 + data.contrast * random.uniform(-1, 1, train.batch_size),
        noise_seeds=random.integers(0, 2**31, train.batch_size),
    )


def make_batch(
    crops: Tensor, plan: StepPlan, part: slice, degrade: Degradation = BICUBIC, *, min_brain: float = 0.0
) -> Batch:
    """Cut, augment and degrade the patches of a worker's part of a step, all at once on the device of the crops.

    Args:
        crops: The crops of the part, `[B, C, side, side]`; the background is 0.
        plan: The plan of the step.
        part: The worker's patches within the batch.
        degrade: Makes LR from HR.
        min_brain: Fraction of brain in a patch. The first of the plan's places that has it is taken, else the one
            with most.
    """

    def on_device(values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values[part]).to(crops.device)

    crops = crops.float()
    room = torch.tensor([side - plan.hr_px + 1 for side in crops.shape[2:]], device=crops.device)
    corners = (on_device(plan.corners) * room).long()
    corner = corners[:, 0] if corners.shape[1] == 1 else _with_brain(crops, corners, plan.hr_px, min_brain)
    patches = _cut(crops, corner, plan.hr_px, on_device(plan.flips))
    hr = patches * on_device(plan.gains).float()[:, None, None, None]
    lr = degrade(hr, (plan.lr_px, plan.lr_px), plan.noise_seeds[part].tolist())
    return Batch(lr, hr, plan.scale)


def _with_brain(crops: Tensor, corners: Tensor, side: int, min_brain: float) -> Tensor:
    """Choose for each crop `[B, C, H, W]` one of its `corners` `[B, places, 2]`; return `[B, 2]`."""
    brain = (crops != 0).any(dim=1).int()  # CUDA sums floats in any order
    sums = functional.pad(brain.cumsum(1).cumsum(2), (1, 0, 1, 0))
    item = torch.arange(len(crops), device=crops.device)[:, None]
    (top, left), (bottom, right) = corners.unbind(2), (corners + side).unbind(2)
    inside = sums[item, bottom, right] - sums[item, top, right] - sums[item, bottom, left] + sums[item, top, left]
    fraction = inside / side**2
    places = corners.shape[1]
    order = torch.arange(places + 1, 1, -1, device=crops.device)  # above any fraction, the first place highest
    best = torch.where(fraction >= min_brain, order, fraction).argmax(dim=1, keepdim=True)
    return corners[item, best][:, 0]


def _cut(crops: Tensor, corner: Tensor, side: int, flips: Tensor) -> Tensor:
    """Return the patches `[B, C, side, side]` at `corner` `[B, 2]`, flipped and transposed by `flips` `[B, 3]`."""
    offsets = torch.arange(side, device=crops.device)
    backwards = side - 1 - offsets
    rows, columns = (corner[:, axis, None] + torch.where(flips[:, axis, None], backwards, offsets) for axis in (0, 1))
    item = torch.arange(len(crops), device=crops.device)[:, None, None]
    patches = crops.permute(0, 2, 3, 1)[item, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return torch.where(flips[:, 2, None, None, None], patches.transpose(2, 3), patches).contiguous()
