"""The Python API: load a model, and super-resolve arrays, tensors, nibabel images and files with it."""

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray

from metasr.arithmetic import Precision, half_precision
from metasr.data.in_memory import (
    NiftiImage,
    array_of,
    image_of,
    is_image,
    volume_of_array,
    volume_of_image,
)
from metasr.data.planes import Plane
from metasr.data.volume import Volume, load_volume
from metasr.errors import ConfigError
from metasr.inference.bundle import Bundle, default_device, load_bundle
from metasr.inference.ensemble import Ensemble
from metasr.inference.request import Factors, Request
from metasr.inference.suitability import untrained_scales
from metasr.inference.target import Target
from metasr.inference.tiles import fitting
from metasr.inference.trust import calibration_of, check_enlarged, of_bytes, trusted
from metasr.inference.upscale import upscale_volume
from metasr.sources import find_bundle

Number = TypeVar("Number", bound=np.number)
Image = TypeVar("Image")
Mask = TypeVar("Mask")
log = logging.getLogger(__name__)


class WithTrust(NamedTuple, Generic[Image, Mask]):
    """A result, and where it is to be believed.

    Attributes:
        sr: The result.
        trust: A mask of the same kind and shape: booleans in arrays and tensors, 1 and 0 in images.
    """

    sr: Image
    trust: Mask


class _Made(NamedTuple):
    """A result as it is computed, before it becomes what its input was."""

    volume: Volume
    target: Target
    result: NDArray[np.floating]


class Model:
    """A generator that is ready to use.

    Args:
        bundle: The generator, on the device to compute on, and what is known of it.
        source: Where it came from, for messages.
        bfloat16: Whether its convolutions are computed in bfloat16 instead of float32.

    Attributes:
        bundle: As given: `bundle.generator` takes batches `[N, C, h, w]` of intensities in about [0, 1].
        source: As given.
        bfloat16: As given.
    """

    def __init__(self, bundle: Bundle, source: str, *, bfloat16: bool = False) -> None:
        self.bundle, self.source, self.bfloat16 = bundle, source, bfloat16

    def __repr__(self) -> str:
        low, high = self.trained_scales
        return f"<metasr.Model {self.source}: {self.bundle.generator.num_parameters:,} parameters, x{low} to x{high}>"

    @property
    def about(self) -> dict[str, Any]:
        """What the bundle's manifest says: settings, run, data, metrics."""
        return self.bundle.about

    @property
    def trained_scales(self) -> tuple[float, float]:
        """The smallest and the largest scale that it was trained on."""
        return self.bundle.trained_scales

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.bundle.generator.mean.device

    @overload
    def upscale(
        self,
        x: NDArray[Number],
        *,
        scale: Factors | None = None,
        spacing: None = None,
        like: NDArray[Any] | None = None,
        plane: Plane | None = None,
        ensemble: bool = False,
    ) -> NDArray[Number]: ...

    @overload
    def upscale(
        self,
        x: torch.Tensor,
        *,
        scale: Factors | None = None,
        spacing: None = None,
        like: torch.Tensor | None = None,
        plane: Plane | None = None,
        ensemble: bool = False,
    ) -> torch.Tensor: ...

    @overload
    def upscale(
        self,
        x: str | Path | NiftiImage,
        *,
        scale: Factors | None = None,
        spacing: Factors | None = None,
        like: str | Path | NiftiImage | None = None,
        plane: Plane | None = None,
        ensemble: bool = False,
    ) -> NiftiImage: ...

    def upscale(
        self,
        x: Any,
        *,
        scale: Factors | None = None,
        spacing: Factors | None = None,
        like: Any = None,
        plane: Plane | None = None,
        ensemble: bool = False,
    ) -> Any:
        """Super-resolve an image or a volume, with the engine of `metasr upscale`.

        Give one of `scale`, `spacing` and `like`. Type and kind are kept; integers are rounded and never wrapped, a
        constant background stays exactly that constant.

        Args:
            x: A NumPy array or torch tensor, `[H, W]` or `[H, W, slices]`, in any intensity units; a nibabel image;
                or the path of a NIfTI file, which is given back as a nibabel image.
            scale: HR size / LR size, 1 to 16: one number or (rows, columns) within the slices, or three numbers for
                the axes of the array. 1 leaves an axis as it is.
            spacing: Voxel size in mm, of images and files: one number, or one for each axis of the array. Axes that
                are finer stay as they are.
            like: Another volume in the same field of view, whose grid the result gets: an array or a tensor whose
                shape is wanted, a nibabel image, or a path.
            plane: Of the slices that are super-resolved first: `axial` (the default, and always the first two axes
                of arrays), `coronal` or `sagittal`; with `spacing`, the plane across the largest voxels.
            ensemble: Average the results for the eight flips and quarter turns of each slice. Takes eight times as
                long.

        Returns:
            What `x` is: array, tensor (on its device) or nibabel image.

        Raises:
            ConfigError: Not exactly one of `scale`, `spacing` and `like` is given, or it does not fit `x`.
            DataError: `x` is not one image of real, finite numbers.
            ScaleError: The scale is out of range, the result does not fit into memory, or the grids do not match.

        Warns:
            UserWarning: A scale is outside those that the model was trained on, or a header contradicts itself.
        """
        made = self._made(x, Request.of(scale, spacing, _grid(like), plane), ensemble=ensemble)
        return _of_kind(made.result, made.volume, x)

    @overload
    def upscale_with_trust(
        self,
        x: NDArray[Number],
        *,
        scale: Factors | None = None,
        spacing: None = None,
        like: NDArray[Any] | None = None,
    ) -> WithTrust[NDArray[Number], NDArray[np.bool_]]: ...

    @overload
    def upscale_with_trust(
        self, x: torch.Tensor, *, scale: Factors | None = None, spacing: None = None, like: torch.Tensor | None = None
    ) -> WithTrust[torch.Tensor, torch.Tensor]: ...

    @overload
    def upscale_with_trust(
        self,
        x: str | Path | NiftiImage,
        *,
        scale: Factors | None = None,
        spacing: Factors | None = None,
        like: str | Path | NiftiImage | None = None,
        plane: Plane | None = None,
    ) -> WithTrust[NiftiImage, NiftiImage]: ...

    def upscale_with_trust(
        self,
        x: Any,
        *,
        scale: Factors | None = None,
        spacing: Factors | None = None,
        like: Any = None,
        plane: Plane | None = None,
    ) -> Any:
        """Super-resolve as `upscale` does, and tell where the result is to be believed, as `metasr upscale --trust`.

        Args:
            x: As for `upscale`, and so are the others.
            scale: HR size / LR size within the slices.
            spacing: Voxel size in mm.
            like: Another volume in the same field of view.
            plane: Of the slices that are super-resolved.

        Returns:
            The result and its mask; `sr, trust = model.upscale_with_trust(x, scale=2)`.

        Raises:
            ConfigError: The model was not calibrated, or the result would be finer across its slices too.
            ScaleError: The model was not calibrated for so large a scale.
            MetaSRError: As `upscale` does.
        """
        made = self._made(x, Request.of(scale, spacing, _grid(like), plane), with_trust=True)
        mask = trusted(made.volume, made.result, made.target, calibration_of(self.bundle, made.target))
        return WithTrust(_of_kind(made.result, made.volume, x), _mask_of_kind(mask, made.volume, x))

    def _made(self, x: Any, request: Request, *, ensemble: bool = False, with_trust: bool = False) -> _Made:
        volume = _volume(x)
        if request.spacing_mm is not None and isinstance(x, np.ndarray | torch.Tensor):
            raise ConfigError("spacing", "an array has no voxel size", "Give scale, or a nibabel image")
        for warning in volume.warnings:
            warnings.warn(f"{volume.source}: {warning}", stacklevel=3)
        target = request.target(volume)
        if with_trust:
            check_enlarged(volume, target)
            calibration_of(self.bundle, target)
        if warning := untrained_scales(self.bundle.trained_scales, target.scales):
            warnings.warn(warning, stacklevel=3)
        generator = fitting(self.bundle.generator, volume, target, log.info)
        averaged = Ensemble(generator) if ensemble else generator
        return _Made(volume, target, upscale_volume(volume, averaged, target, bfloat16=self.bfloat16))


def load(
    source: str | Path | None = None, *, device: str | torch.device | None = None, precision: Precision = "auto"
) -> Model:
    """Load a model, checking every file of its bundle.

    Args:
        source: The folder of a bundle, or the name of a model that ships with metasr: `"fidelity"`.
            With the part for clusters installed (`pip install 'metasr[cluster]'`) also
            `models:/meta-srgan@champion`, `models:/meta-srgan/3`, an alias or a version of meta-srgan (`"champion"`,
            `"3"`), a run by its name, folder or MLflow ID, and `s3://bucket/prefix` of a bundle or a run.
            MLFLOW_TRACKING_URI names the server; without it, it is the database of the commands. None for `fidelity`.
        device: Where to compute, as torch names it; by default the first GPU, else the CPU.
        precision: Of the convolutions. auto: bfloat16 where the device computes it natively, else float32. Elsewhere
            bfloat16 takes many times longer.

    Raises:
        RegistryError: There is no such model.
        CheckpointError: It is no bundle, or it is damaged.
        ConfigError: A library that `source` needs is not installed, or there is no such device.
        StoreError: MLflow or a store cannot be reached, or denies access.
    """
    with tempfile.TemporaryDirectory() as download:
        folder = find_bundle(source, Path(download))
        bundle = load_bundle(folder, device_named(device))
    half = half_precision(precision, bundle.generator.mean.device)
    return Model(bundle, str(source or folder.name), bfloat16=half)


def device_named(name: str | torch.device | None) -> torch.device:
    """Return a device; the first GPU, else the CPU, where none is named.

    Raises:
        ConfigError: There is none of that name here.
    """
    if name is None:
        return default_device()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        here = "cpu and cuda" if torch.cuda.is_available() else "cpu"
        raise ConfigError(f"device {name}", "there is none here", f"Give another: {here}") from error
    return device


def _volume(x: Any) -> Volume:
    if isinstance(x, torch.Tensor):
        return volume_of_array(_array(x))
    if isinstance(x, np.ndarray):
        return volume_of_array(x)
    if is_image(x):
        return volume_of_image(x)
    if isinstance(x, str | Path):
        return load_volume(Path(x))
    raise ConfigError(
        f"upscale of a {type(x).__name__}", "", "Give a NumPy array, a torch tensor, a nibabel image or a path"
    )


def _array(x: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = x.detach().to("cpu", torch.float32 if x.dtype == torch.bfloat16 else x.dtype).numpy()
    return array


def _of_kind(result: NDArray[np.floating], volume: Volume, x: Any) -> Any:
    """Return a result as what its input is."""
    if isinstance(x, torch.Tensor):
        return torch.from_numpy(np.ascontiguousarray(array_of(result, _array(x)))).to(x)
    return array_of(result, x) if isinstance(x, np.ndarray) else image_of(result, volume)


def _mask_of_kind(mask: NDArray[np.bool_], volume: Volume, x: Any) -> Any:
    """Return a mask as what the input is."""
    if not isinstance(x, np.ndarray | torch.Tensor):
        return image_of(mask.astype(np.float32), of_bytes(volume))
    flat = np.ascontiguousarray(mask[..., 0] if x.ndim == 2 else mask)
    return torch.from_numpy(flat).to(x.device) if isinstance(x, torch.Tensor) else flat


def _grid(like: Any) -> Volume | tuple[int, ...] | None:
    if like is None:
        return None
    return tuple(like.shape) if isinstance(like, np.ndarray | torch.Tensor) else _volume(like)
