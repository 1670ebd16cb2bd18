"""NIfTI volumes to test with: oriented in every way, in memory, in files, in files with other bytes in the header."""

import gzip
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np

from metasr.data.volume import Volume

ORIENTATIONS = [(p, s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]
SHAPE = (4, 5, 6)
DIM, DATATYPE, SLOPE, QUATERN, SROW = 40, 70, 112, 256, 280  # offsets in the header, in bytes


def oriented_affine(axes, signs, degrees=(0, 0, 0)):
    """Voxel axis n runs along world axis `axes[n]`, with spacings of 1, 1.5 and 2.5 mm, then the world is turned."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for voxel_axis, (world_axis, sign, spacing) in enumerate(zip(axes, signs, (1, 1.5, 2.5), strict=True)):
        affine[world_axis, voxel_axis] = sign * spacing
    affine[:3, :3] = turn(degrees) @ affine[:3, :3]
    affine[:3, 3] = (-20, 31, 7)
    return affine


def turn(degrees):
    x, y, z = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def in_memory(data, affine=None):
    data = np.asarray(data, dtype=np.float64)
    affine = np.eye(4) if affine is None else affine
    return Volume(data, nib.Nifti1Image(data, affine).header, Path("memory.nii"))


def corners(affine, shape):
    """Return the outer corners of the field of view in mm, `[8, 3]`."""
    ends = np.array(list(product(*((-0.5, n - 0.5) for n in shape))))
    return ends @ affine[:3, :3].T + affine[:3, 3]


def write(path, data=None, *, affine=None, edit=lambda image: None):
    if data is None:
        data = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    image = nib.Nifti1Image(data, np.diag([1, 1.5, 2.5, 1]) if affine is None else affine, dtype=data.dtype)
    edit(image)
    nib.save(image, path)
    return path


def write_patched(path, offset, values, dtype, *, edit=lambda image: None):
    """Write a small volume, then overwrite header bytes."""
    plain = write(path.with_name("plain.nii"), edit=edit)
    content = bytearray(plain.read_bytes())
    patch = np.asarray(values, dtype=dtype).tobytes()
    content[offset : offset + len(patch)] = patch
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path
