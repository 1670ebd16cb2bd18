"""Whether the bounds of `upscale --trust` hold: the share of the brain's pixels whose error is within them."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metasr.errors import ScaleError
from metasr.inference.background import nearest
from metasr.scale import Scale
from metasr.trust.conformal import Calibration
from metasr.trust.doubt import doubt

COVERED = "share of the pixels in the brain whose error is within the bound that the model's calibration states"
"""What is measured, in a clause."""


def doubts_and_errors(sr: Tensor, lr: Tensor, hr: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return doubt and absolute error of the pixels that are brain in both LR and HR.

    Args:
        sr: Super-resolved image on the CPU, `[1, 1, H, W]`, intensities in about [0, 1], background 0.
        lr: What it was made of, `[1, 1, h, w]`.
        hr: The original, `[1, 1, H, W]`.
    """
    rows, columns = (nearest(old, new) for old, new in zip(lr.shape[2:], sr.shape[2:], strict=True))
    inside = (lr[0, 0].numpy() != 0)[rows][:, columns] & (hr[0, 0].numpy() != 0)
    return doubt(sr, lr)[0, 0].numpy()[inside], (sr - hr).abs()[0, 0].numpy()[inside]


def covered(sr: Tensor, lr: Tensor, hr: Tensor, scale: Scale, calibration: Calibration) -> float | None:
    """Return the share whose error is within the bound; None without brain, or above the calibrated scales."""
    doubts, errors = doubts_and_errors(sr, lr, hr)
    if not len(errors):
        return None
    try:
        bound = calibration.bound(doubts, max(scale.rows, scale.columns))
    except ScaleError:
        return None
    return float((errors <= bound).mean())
