"""A stack of slices as a NIfTI volume, for programs that read nothing else."""

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from metasr.data.volume import Volume, save_volume


def save_slices(path: Path, slices: NDArray[np.float32], spacing_mm: tuple[float, float, float]) -> None:
    """Write axial slices `[S, H, W]` as a volume in float32, which `load_volume(path).slices()` gives back.

    Args:
        path: .nii or .nii.gz.
        slices: From feet to head, as `Volume.slices` shows them.
        spacing_mm: Distance of neighbouring slices, rows and columns.
    """
    across, rows, columns = spacing_mm
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((slices.shape[2], slices.shape[1], slices.shape[0]))
    header.set_xyzt_units("mm")
    affine = np.diag([columns, rows, across, 1.0])
    header.set_qform(affine, 2)
    header.set_sform(affine, 2)
    empty = np.empty(header.get_data_shape(), np.float64)
    like = Volume(empty, header, path)
    save_volume(path, like.from_slices(slices), like)
