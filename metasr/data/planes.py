"""The three anatomical planes, and how a slice of each is displayed."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Plane = Literal["axial", "coronal", "sagittal"]

# World axes (0 left to right, 1 back to front, 2 feet to head) across the slices, up the rows and along the columns.
PLANES: Mapping[Plane, tuple[int, int, int]] = MappingProxyType(
    {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}
)
