"""Fourier ring correlation by patch: where the detail of an image is not that of the original.

The correlation of two images at a spatial frequency is that of their Fourier coefficients on the ring of this radius:

    FRC(k) = Re sum F1 F2* / sqrt(sum |F1|^2 sum |F2|^2)      over the coefficients whose radius rounds to k

It is 1 where both have the same structure, whatever its contrast, and about 0 where they have nothing in common. A
patch disagrees with HR where its FRC falls below 1 / sqrt(2) at a frequency that LR still had, below the Nyquist
frequency of LR: what is there was measured, so that a difference is an error of the method and no lack of data. Where
an error has nothing in common with the structure of HR, the FRC is 1 / sqrt(1 + E / S) for the energies of both: at
the threshold the error is as strong as the structure.

Source: FRC: Saxton and Baumeister 1982. Scanned over patches, with a limit of frequency: arXiv 2603.04673, whose
patches, threshold and limit are set for each task; those here are stated below.
"""

import torch
from torch import Tensor

from metasr.scale import Scale

PATCH_PX = 32
STEP_PX = 16
THRESHOLD = 0.5**0.5
MIN_BRAIN = 0.5  # of a patch
MISMATCH = (
    f"share of patches of {PATCH_PX} x {PATCH_PX} pixels in the brain, every {STEP_PX}, whose Fourier ring "
    f"correlation with HR falls below {THRESHOLD:.2f} up to the Nyquist frequency of LR"
)
"""What is measured, in a clause."""
FAINT = 1e-9  # of the energy of a patch: a ring without structure, which agrees with anything


def ring_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the FRC of pairs of patches `[N, S, S]`, `[N, S // 2]` in float64: rings 1 to S / 2, of Nyquist.

    The mean of each patch is subtracted, and its edges are faded out by a Hann window: opposite edges do not meet.
    """
    side = a.shape[-1]
    line = torch.hann_window(side, periodic=False, dtype=torch.float64)
    first, second = (
        torch.fft.fft2((each.double() - each.double().mean((-2, -1), keepdim=True)) * line[:, None] * line)
        for each in (a, b)
    )
    frequency = torch.fft.fftfreq(side, dtype=torch.float64) * side
    radius = torch.hypot(frequency[:, None], frequency).round().long().flatten()

    def on_rings(values: Tensor) -> Tensor:
        rings = values.new_zeros(len(values), int(radius.max()) + 1)
        return rings.index_add_(1, radius, values.flatten(1))[:, 1 : side // 2 + 1]

    cross = on_rings((first * second.conj()).real)
    energy = [on_rings(each.abs().square()) for each in (first, second)]
    empty = (energy[0] <= FAINT * energy[0].sum(1, keepdim=True)) & (
        energy[1] <= FAINT * energy[1].sum(1, keepdim=True)
    )
    return torch.where(empty, 1.0, cross / (energy[0] * energy[1]).sqrt().clamp_min(1e-30))


def mismatch(sr: Tensor, hr: Tensor, scale: Scale) -> float | None:
    """Return the share of the patches in the brain whose detail is not that of HR; None if there is no such patch.

    Args:
        sr: `[1, 1, H, W]`.
        hr: The original, of the same shape; background is 0.
        scale: HR size / LR size; where the axes differ, the rings go to the Nyquist frequency of the coarser.
    """
    if min(hr.shape[-2:]) < PATCH_PX:
        return None
    ours, theirs = (
        each[0, 0].unfold(0, PATCH_PX, STEP_PX).unfold(1, PATCH_PX, STEP_PX).flatten(0, 1) for each in (sr, hr)
    )
    inside = (theirs != 0).double().mean((-2, -1)) >= MIN_BRAIN
    if not inside.any():
        return None
    rings = max(1, int(PATCH_PX / 2 / max(scale.rows, scale.columns)))
    found = ring_correlation(ours[inside], theirs[inside])[:, :rings]
    return float((found < THRESHOLD).any(1).double().mean())
