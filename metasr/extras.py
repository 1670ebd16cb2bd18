"""The optional parts of the installation: what is missing when a library is."""

from metasr.errors import ConfigError

CLUSTER = (
    *("boto3", "botocore", "jinja2", "matplotlib", "mlflow", "optuna"),
    *("ray", "scipy", "sklearn", "torchvision", "webdataset", "xxhash"),
)
VIEWER = ("fastapi", "starlette", "uvicorn")
EXPORT = ("onnx", "onnxruntime")
SERVE = ("grpc_reflection", "watchfiles")
EXTRA_OF = {
    **dict.fromkeys(CLUSTER, "cluster"),
    **dict.fromkeys(VIEWER, "viewer"),
    **dict.fromkeys(EXPORT, "export"),
    "nilearn": "demo",
    "pydicom": "dicom",
    **dict.fromkeys(SERVE, "serve"),
}
"""Extra of pyproject.toml that each importable library comes with."""


def missing_extra(error: ModuleNotFoundError, what: str) -> ConfigError | None:
    """Return what to tell somebody who lacks the library of an extra; None for a library of none.

    Args:
        error: Of the import.
        what: What needs the library: a command or a function.
    """
    library = (error.name or "").partition(".")[0]
    if library not in EXTRA_OF:
        return None
    extra = EXTRA_OF[library]
    return ConfigError(
        what, f"it needs {library}, which is not installed", f"Install it with `pip install 'metasr[{extra}]'`"
    )
