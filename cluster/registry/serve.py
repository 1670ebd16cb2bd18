"""The script that MLflow runs to use a registered model; a copy of this file lies beside the bundle.

`mlflow.pyfunc.load_model` and `mlflow models serve` execute the copy; the `metasr` commands never do. It reads the
bundle with the installed `metasr`: weights from safetensors, each file checked, no pickle.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.models
import numpy as np
import torch
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from metasr.inference.bundle import default_device, load_bundle
from metasr.models import evaluating
from metasr.scale import Scale


class ServedBundle(PythonModel):
    """The generator of a bundle, behind MLflow's interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Check and load the bundle beside this file."""
        self._generator = load_bundle(Path(context.artifacts["bundle"]), default_device()).generator

    def predict(
        self,
        context: PythonModelContext,
        model_input: np.ndarray,
        params: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Super-resolve LR images `[N, C, h, w]`, float32 in [0, 1], to `[N, C, H, W]`.

        Args:
            context: Not used.
            model_input: The images.
            params: `scale`, or `height` and `width` in pixels; 0: computed from the scale.

        Raises:
            ValueError: A size is not larger than the image, or more than 16 times as large.
        """
        size = _size(model_input.shape[2:], **(params or {}))
        with evaluating(self._generator):
            lr = torch.from_numpy(np.ascontiguousarray(model_input, np.float32))
            sr: np.ndarray = self._generator(lr.to(self._generator.mean.device), size).cpu().numpy()
        return sr


def _size(shape: tuple[int, ...], scale: float = 2.0, height: int = 0, width: int = 0) -> tuple[int, int]:
    rows, columns = height or round(shape[0] * scale), width or round(shape[1] * scale)
    Scale(rows / shape[0], columns / shape[1])  # raises ValueError before memory is allocated
    return rows, columns


mlflow.models.set_model(ServedBundle())
