"""The bundle: a generator ready for use, in safetensors and JSON, with a card that says what it is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from metasr import __version__, manifest
from metasr.config import ExperimentConfig, ModelConfig
from metasr.data.degrade import Degradation
from metasr.errors import CheckpointError
from metasr.identity import RunIdentity
from metasr.models import SuperResolver, build_generator
from metasr.trust.conformal import Calibration

WEIGHTS = "generator.safetensors"
CARD = "README.md"
TRUST = "trust.json"
"""The calibration of `upscale --trust`; few bundles have one."""


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Attributes:
        generator: In evaluation mode, on the requested device.
        about: What the manifest says: settings, run, data, metrics; and the generator's `num_parameters`.
        digest: SHA-256 of the manifest, which names every file: the identity of the bundle.
        trust: What says where its results are to be believed; None where it was not calibrated.
    """

    generator: SuperResolver
    about: dict[str, Any]
    digest: str
    trust: Calibration | None = None

    @property
    def trained_scales(self) -> tuple[float, float]:
        """The smallest and the largest scale the generator was trained on."""
        train = self.about["config"]["train"]
        return train["scale_min"], train["scale_max"]

    @property
    def degradation(self) -> Degradation:
        """How the LR images that the generator was trained on were made."""
        data = self.about["config"]["data"]
        # The first bundles have no such setting.
        return Degradation(data["degradation"], data.get("noise", 0.0))


def save_bundle(
    folder: Path,
    generator: SuperResolver,
    config: ExperimentConfig,
    identity: RunIdentity,
    *,
    step: int,
    metrics: Mapping[str, float],
) -> None:
    """Write the generator, everything that is needed to build it again, and where it came from."""
    folder.mkdir(parents=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()}
    (folder / WEIGHTS).write_bytes(safetensors.torch.save(weights))  # raises OSError where the disk is full
    about = {
        **asdict(identity),
        "metasr_version": __version__,
        "config": config.model_dump(mode="json"),
        "step": step,
        "metrics": dict(metrics),
    }
    (folder / CARD).write_text(_card(config, generator.num_parameters, identity, step, metrics))
    manifest.seal(folder, "bundle", about)


def load_bundle(folder: Path, device: torch.device) -> Bundle:
    """Check a bundle's files and build its generator.

    Raises:
        CheckpointError: It is not a bundle, it is damaged, or it was made by an incompatible version.
    """
    about = manifest.unseal(folder, "bundle")
    try:
        generator = build_generator(ModelConfig.model_validate(about["config"]["model"]))
        generator.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
        trust = _calibration(folder)
    except (KeyError, TypeError, RuntimeError, ValueError, OSError, SafetensorError) as error:
        made_by = about.get("metasr_version", "unknown")
        raise CheckpointError(
            f"bundle {folder}",
            f"version {made_by} made it, which {__version__} cannot read",
            "Use the version that made it",
        ) from error
    about["num_parameters"] = generator.num_parameters
    return Bundle(generator.to(device).eval(), about, manifest.digest(folder), trust)


def _calibration(folder: Path) -> Calibration | None:
    """Return the calibration in a bundle whose files were checked; ValueError if it is of other weights."""
    files = manifest.sealed_files(folder)
    if TRUST not in files:
        return None
    found = Calibration.from_json((folder / TRUST).read_text(encoding="utf-8"))
    if found.weights_sha256 != files[WEIGHTS][0]:
        raise ValueError(f"{TRUST} was made with other weights")
    return found


def default_device() -> torch.device:
    """Return the first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _card(
    config: ExperimentConfig, num_parameters: int, identity: RunIdentity, step: int, metrics: Mapping[str, float]
) -> str:
    train, scores = (
        config.train,
        "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items() if name != "step"),
    )
    return f"""# {config.model.architecture} generator

Super-resolves slices and volumes of brain MRI. Research software, not a medical device.

- {num_parameters:,} parameters, trained for {step} steps on scales {train.scale_min} to {train.scale_max}
- run `{identity.run_name}`, code `{identity.code_version}`, data index `{identity.data_digest[:16]}`

Measured while training, on a few slices of the validation subjects (`metasr evaluate` measures properly):

| metric | value |
|---|---|
{scores}
"""
