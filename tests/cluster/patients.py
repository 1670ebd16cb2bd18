"""Four small patients in the layout of BraTS, made up, and how the tests of shards prepare and read them."""

import nibabel as nib
import numpy as np
import torch

from cluster.config import PrepareConfig
from cluster.prepare import prepare
from cluster.stream import ShardCrops, held_out_slices, read_index
from metasr.data.order import SampleOrder

SHAPE = (40, 44, 12)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # how BraTS stores its voxels
SUBJECTS = [f"BraTS20_Training_{number:03d}" for number in range(1, 5)]
OPTIONS = PrepareConfig(modality="t1ce", crop_px=32, val_subjects=(SUBJECTS[1],))


def brain(seed, shape=SHAPE):
    """Integers from 100 to 400 in an ellipsoid off the middle, 0 around it."""
    centre = (np.array(shape) - 1) / 2 + (2, -1, 0)
    radius = np.sqrt((((np.indices(shape).T - centre) / (0.4 * np.array(shape))) ** 2).sum(-1)).T
    return np.where(radius < 1, np.random.default_rng(seed).integers(100, 400, shape), 0).astype(np.int16)


def write_volume(path, data, affine=LPS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)


def volume_file(folder, subject):
    return folder / subject / f"{subject}_t1ce.nii.gz"


def make_volumes(folder):
    for seed, subject in enumerate(SUBJECTS):
        write_volume(volume_file(folder, subject), brain(seed), LPS if seed % 2 else np.eye(4))
    return folder


def shard_file(folder, place):
    """Return the only file of a folder whose name begins so, such as `train-000001`."""
    (path,) = folder.glob(f"{place}-*.tar")
    return path


def run_prepare(folder, store, options=OPTIONS):
    return prepare(folder, store, options, lambda line: None)


def training_crops(store, index):
    """Return all training crops in the order of the index, `[N, 1, side, side]`, read as in training."""
    source = ShardCrops(store, index)
    order = SampleOrder(source.shard_sizes, window=1, seed=0)
    epoch = next(source.stream(order, first_step=0, batch_size=len(order), part=slice(0, len(order))))
    return epoch[torch.from_numpy(order.step(0, len(order)).argsort())]


def read_all(store):
    """Read everything a store holds, as training and evaluation do."""
    index = read_index(store)
    return training_crops(store, index), held_out_slices(store, index, 0)
