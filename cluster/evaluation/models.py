"""The models of an evaluation: found by their references, and loaded."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from cluster.registry import Located, Registry
from metasr.errors import ConfigError
from metasr.evaluation.methods import BICUBIC_NAME, LANCZOS_NAME, MODEL_NAME
from metasr.inference.bundle import Bundle, load_bundle


def load_model(registry: Registry, reference: str) -> tuple[Located, Bundle]:
    """Locate and load a model.

    Raises:
        MetaSRError: There is none, or it cannot be used.
    """
    with tempfile.TemporaryDirectory() as download:
        located = registry.locate(reference, Path(download))
        return located, load_bundle(located.folder, torch.device("cpu"))


def load_rivals(registry: Registry, located: Located, references: Sequence[str]) -> dict[str, Bundle]:
    """Return the other models, keyed by the names of their methods.

    Raises:
        MetaSRError: Two would have the same name, or one cannot be used.
    """
    names = [reference.removeprefix("@") for reference in references]
    if len({BICUBIC_NAME, LANCZOS_NAME, MODEL_NAME, *names}) < 3 + len(names):
        raise ConfigError(
            f"--against {' --against '.join(references)}",
            "two methods would have the same name",
            "Give each model once; bicubic and lanczos are always compared",
        )
    found = {}
    for reference, name in zip(references, names, strict=True):
        own = f"models:/{located.model or registry.config.model}{reference}"
        _, bundle = load_model(registry, own if reference.startswith("@") else reference)
        found[f"version {name}" if name.isdigit() else name] = bundle
    return found
