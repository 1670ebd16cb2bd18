"""What is asked of a volume: a scale, a voxel size or another volume's grid, before it is known which volume."""

from collections.abc import Sequence
from dataclasses import dataclass

from metasr.data.planes import Plane
from metasr.data.volume import Volume
from metasr.errors import ConfigError
from metasr.inference.target import Target

Factors = float | Sequence[float]


@dataclass(frozen=True)
class Request:
    """One of `scale`, `spacing_mm` and `like`.

    Attributes:
        scale: Within the slices (one number, or rows and columns), or along the three axes of the array.
        spacing_mm: Size of the voxels along the three axes of the array.
        like: A volume whose grid is wanted, or the shape of the array that is.
        plane: Of the slices that are super-resolved first; None for the most likely.
        resample: With a spacing: whether axes that are finer already become coarser.
    """

    scale: tuple[float, ...] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    like: Volume | tuple[int, ...] | None = None
    plane: Plane | None = None
    resample: bool = False

    @classmethod
    def of(
        cls,
        scale: Factors | None = None,
        spacing: Factors | None = None,
        like: Volume | tuple[int, ...] | None = None,
        plane: Plane | None = None,
    ) -> "Request":
        """Return a request from what a caller gave.

        Raises:
            ConfigError: It is not exactly one of scale, spacing and like, or has another count of numbers.
        """
        if sum(given is not None for given in (scale, spacing, like)) != 1:
            raise ConfigError("upscale", "", "Give one of scale, spacing and like")
        factors = None if scale is None else _numbers("scale", scale, (1, 2, 3))
        if spacing is None:
            return cls(factors, None, like, plane)
        sizes = _numbers("spacing", spacing, (1, 3))
        return cls(factors, (sizes[0], sizes[len(sizes) // 2], sizes[-1]), like, plane)

    @property
    def label(self) -> str:
        """What names of results say of it: `x2.5`, `x2x3.3`, `1mm` or `like-t1`."""
        if self.scale:
            return "x" + "x".join(f"{each:g}" for each in dict.fromkeys(self.scale))
        if self.spacing_mm:
            return "x".join(f"{mm:g}" for mm in dict.fromkeys(self.spacing_mm)) + "mm"
        return f"like-{self.like.source.name.partition('.')[0]}" if isinstance(self.like, Volume) else "like"

    def target(self, volume: Volume) -> Target:
        """Return the shape to make of a volume.

        Raises:
            ScaleError: It cannot be made of this volume.
        """
        if isinstance(self.like, tuple):
            return Target.of_shape(volume, (*self.like, 1)[:3], self.plane or "axial")
        if self.like is not None:
            return Target.of_grid(volume, self.like, self.plane)
        if self.spacing_mm is not None:
            return Target.of_spacing(volume, self.spacing_mm, self.plane, resample=self.resample)
        assert self.scale is not None  # one of the three is given
        if len(self.scale) == 3:
            return Target.of_axes(volume, (self.scale[0], self.scale[1], self.scale[2]), self.plane)
        return Target.of_scale(volume, (self.scale[0], self.scale[-1]), self.plane or "axial")


def _numbers(name: str, value: Factors, counts: tuple[int, ...]) -> tuple[float, ...]:
    numbers = tuple(float(each) for each in value) if isinstance(value, Sequence) else (float(value),)
    if len(numbers) not in counts:
        raise ConfigError(f"{name} of {len(numbers)} numbers", "", f"Give {' or '.join(map(str, counts))}")
    return numbers
