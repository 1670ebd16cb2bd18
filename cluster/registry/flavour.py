"""A bundle as a folder that MLflow can load and serve: `mlflow.pyfunc`, from code and the bundle, without pickle."""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from metasr import manifest

SCRIPT = Path(__file__).with_name("serve.py")
BUNDLE = "bundle"
# Not metasr itself: it is on no package index, where anybody could take the name. Install it where a model is served.
REQUIREMENTS = ("mlflow", "numpy", "pydantic", "safetensors", "torch")
EXAMPLE_PX = 8


def save_flavour(bundle: Path, folder: Path) -> None:
    """Write a folder with a bundle, the script that MLflow runs to use it, the signature and an example.

    Args:
        bundle: Folder of the bundle; copied unchanged, and found again by `bundle_in`.
        folder: Folder to create; must not exist.

    Raises:
        CheckpointError: It is not a bundle, or it is damaged.
    """
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    # Older bundles do not mention channels.
    channels = manifest.unseal(bundle, "bundle").get("config", {}).get("model", {}).get("channels", 1)
    images = Schema([TensorSpec(np.dtype(np.float32), (-1, channels, -1, -1))])
    scale = ParamSpec("scale", DataType.double, 2.0)
    size = [ParamSpec(name, DataType.long, 0) for name in ("height", "width")]
    ramp = np.linspace(0, 1, EXAMPLE_PX**2, dtype=np.float32).reshape(1, 1, EXAMPLE_PX, EXAMPLE_PX)
    with tempfile.TemporaryDirectory() as temporary:
        named = shutil.copytree(bundle, Path(temporary) / BUNDLE)  # MLflow keeps a folder's own name
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(SCRIPT),
            artifacts={BUNDLE: str(named)},
            signature=ModelSignature(images, images, ParamSchema([scale, *size])),
            input_example=(np.repeat(ramp, channels, axis=1), {"scale": 2.0}),
            # Without a local part such as +cpu, which an index does not have.
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
        )


def bundle_in(folder: Path) -> Path:
    """Return the bundle's folder inside one that MLflow can load; older versions are the bundle itself."""
    inner = folder / "artifacts" / BUNDLE
    return inner if inner.is_dir() else folder
