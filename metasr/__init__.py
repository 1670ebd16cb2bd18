"""Meta-SRGAN: arbitrary-scale super-resolution of brain MRI. The science, on torch alone.

    import metasr

    model = metasr.load("bundle/")
    sr = model.upscale("in.nii.gz", scale=2.5)

What is imported here takes no time: torch and nibabel are loaded when a model is.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metasr.api import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the Python API when it is used for the first time."""
    if name not in ("Model", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from metasr import api

    return getattr(api, name)
