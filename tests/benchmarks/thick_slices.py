"""Thick slices made thin again: 3 mm and 5 mm to 1 mm, the model that ships beside cubic interpolation.

    python tests/benchmarks/thick_slices.py VOLUME...

The axial slices of isotropic volumes are averaged in threes and fives, as a thick slice averages what it goes
through, and the volumes brought back. PSNR in the brain, range from 0 to its 99.9th percentile; SSIM of whole
sagittal slices; seconds of processor time. Cubic is `scipy.ndimage.zoom` of order 3 with the voxels' edges aligned.
"""

import argparse
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import zoom

import metasr
from metasr.data.intensity import IntensityScale
from metasr.data.volume import load_volume
from metasr.evaluation.tables import grid
from metasr.metrics import ssim

THICKNESSES = 3, 5


def main() -> None:
    """Print a row per volume, thickness and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="+", type=Path)
    parser.add_argument("--model", help="as for metasr.load() [the model that ships]")
    options = parser.parse_args()
    model = metasr.load(options.model) if options.model else metasr.load()
    rows = [["volume", "slices", "method", "PSNR, brain", "SSIM", "s"]]
    for path in options.volumes:
        volume = load_volume(path)
        axis = volume.axes("axial")[0]
        intensities = IntensityScale.fit(volume.data)
        assert intensities is not None, path
        for times in THICKNESSES:
            kept = volume.data.shape[axis] // times * times
            original = intensities.to_unit(volume.data.take(range(kept), axis)).astype(np.float64)
            thick, affine = averaged(original, volume.affine, axis, times)

            began = time.process_time()
            image = nib.Nifti1Image(thick.astype(np.float32), affine)
            scale = [1.0, 1.0, 1.0]
            scale[axis] = times
            ours = np.asarray(model.upscale(image, scale=tuple(scale)).dataobj)
            seconds = [time.process_time() - began]
            began = time.process_time()
            cubic = zoom(thick, scale, order=3, mode="nearest", grid_mode=True)
            seconds.append(time.process_time() - began)

            sagittal = volume.axes("sagittal")[0]
            for name, result, spent in zip(("model", "cubic"), (ours, cubic), seconds, strict=True):
                psnr, similarity = scored(result, original, sagittal)
                cells = f"{psnr:.2f}", f"{similarity:.4f}", f"{spent:.1f}"
                rows.append([path.name.partition(".")[0], f"{times}", name, *cells])
                print(*rows[-1], flush=True)
    print(f"\n{grid(rows)}")


def averaged(data: np.ndarray, affine: np.ndarray, axis: int, times: int) -> tuple[np.ndarray, np.ndarray]:
    """Return slices averaged by so many along an axis, and the affine of what comes out."""
    shape = (*data.shape[:axis], data.shape[axis] // times, times, *data.shape[axis + 1 :])
    moved = affine.copy()
    moved[:3, axis] *= times
    moved[:3, 3] += affine[:3, axis] * (times - 1) / 2
    return data.reshape(shape).mean(axis + 1), moved


def scored(result: np.ndarray, original: np.ndarray, axis: int) -> tuple[float, float]:
    """Return PSNR in the brain, and SSIM of the whole slices across an axis."""
    error = np.square(result - original)[original != 0].mean()
    slices = [
        torch.from_numpy(np.moveaxis(each, axis, 0).astype(np.float32).copy())[:, None] for each in (result, original)
    ]
    return -10 * float(np.log10(error)), float(ssim(*slices).mean())


if __name__ == "__main__":
    main()
