"""Stand-in patients for machines without patient data: one healthy template, deformed and recoloured.

They exercise the whole system on a real brain's anatomy. They are not patients, there is no contrast agent and no
tumour in them, and nothing measured on them says anything about patients.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from metasr.data.degrade import resize_bicubic
from metasr.data.slices import slice_lengths
from metasr.data.volume import load_volume, save_volume
from metasr.errors import ConfigError


def load_template() -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the ICBM 2009a T1 template without its skull (197 x 233 x 189, 1 mm), and its affine.

    Raises:
        ConfigError: nilearn, which ships it, is not installed.
    """
    try:
        from nilearn.datasets import load_mni152_template
    except ImportError as error:
        raise ConfigError(
            "nilearn is not installed", "it ships the template brain", 'Run pip install ".[demo]"'
        ) from error
    image = load_mni152_template(resolution=1)
    return image.get_fdata(), image.affine


def deform(volume: Tensor, random: np.random.Generator, *, grid_points: int = 5, max_shift: float = 0.04) -> Tensor:
    """Warp a volume `[i, j, k]` by a smooth random displacement of a coarse grid of control points.

    Args:
        volume: Intensities.
        random: Source of the displacements.
        grid_points: Control points along each axis.
        max_shift: Largest displacement, as a fraction of the field of view.
    """
    shifts = torch.from_numpy(random.uniform(-2, 2, (1, 3, *(grid_points,) * 3)) * max_shift).float()
    shifts = functional.interpolate(shifts, size=tuple(volume.shape), mode="trilinear", align_corners=True)
    grid = functional.affine_grid(torch.eye(3, 4)[None], [1, 1, *volume.shape], align_corners=True)
    grid = grid + shifts.permute(0, 2, 3, 4, 1)
    return functional.grid_sample(volume[None, None], grid, align_corners=True)[0, 0]


def recolour(volume: Tensor, random: np.random.Generator) -> Tensor:
    """Change the contrast of a volume in [0, 1]: a gamma, a smooth bias field and a little Rician noise."""
    gamma = float(random.uniform(0.8, 1.3))
    bias = torch.from_numpy(random.uniform(0.85, 1.15, (1, 1, 3, 3, 3))).float()
    bias = functional.interpolate(bias, size=tuple(volume.shape), mode="trilinear", align_corners=True)[0, 0]
    signal = volume.clamp(min=0) ** gamma * bias
    noise = torch.from_numpy(random.normal(0, 0.005, (2, *volume.shape)).astype(np.float32))
    noisy = torch.sqrt((signal + noise[0]) ** 2 + noise[1] ** 2)
    return torch.where(volume > 0, noisy, torch.zeros(()))


def write_subjects(
    folder: Path,
    template: NDArray[np.floating],
    affine: NDArray[np.floating],
    *,
    num_subjects: int,
    seed: int = 0,
) -> list[Path]:
    """Write stand-in patients in the folder layout of BraTS, int16, and return their files.

    Args:
        folder: Where `<subject>/<subject>_t1ce.nii.gz` are made. The name is that of the layout; the contrast is T1.
        template: A brain without its skull, background 0.
        affine: Voxel indices to millimetres.
        num_subjects: Number of subjects.
        seed: Decides deformations and contrasts.
    """
    brain = torch.from_numpy(np.ascontiguousarray(template, dtype=np.float32))
    brain = brain / brain.max()
    files = []
    for number in range(1, num_subjects + 1):
        random = np.random.default_rng([seed, number])
        data = recolour(deform(brain, random), random) * 1000
        name = f"Synthetic_{number:03d}"
        file = folder / name / f"{name}_t1ce.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(data.round().short().numpy(), affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, file)
        files.append(file)
    return files


def cut_to_scale(volume: Path, result: Path, scale: float) -> None:
    """Write a volume with axial slices cut to a size at which their low resolution is exactly `scale` times smaller.

    What is enlarged from that by `scale` has the shape and the affine of the result: the two can be compared voxel by
    voxel. The far ends of the axes are cut, so that the first voxel stays where it is.
    """
    image = nib.Nifti1Image.from_filename(volume)
    _, *in_plane = load_volume(volume).axes("axial")
    kept = [slice(None)] * 3
    for axis in in_plane:
        kept[axis] = slice(slice_lengths(image.shape[axis], scale)[0])
    nib.save(image.slicer[tuple(kept)], result)


def write_low_resolution(volume: Path, result: Path, scale: float) -> None:
    """Write a volume with its axial slices shrunk by `scale`, antialiased, in the same field of view."""
    original = load_volume(volume)
    axial = torch.from_numpy(original.slices().copy()).float()[:, None]
    size = round(axial.shape[2] / scale), round(axial.shape[3] / scale)
    save_volume(result, original.from_slices(resize_bicubic(axial, size)[:, 0].numpy()), original)
