"""Names of a run's metrics in MLflow: a few at the top level, the others in groups."""

from collections.abc import Mapping
from statistics import fmean

GROUPS = {"loss_": "loss/", "val_": "validation/"}
TOP = ("objective",)
GAIN_DB, GAIN_SSIM, STEPS = "gain_psnr_db", "gain_ssim", "steps"


def curves(kind: str, step: int, values: Mapping[str, float]) -> dict[str, float]:
    """Return the values of an event under their names in MLflow.

    MLflow shows `loss/pixel` in a group `loss`. The few metrics that compare runs have no group: `gain_psnr_db` and
    `gain_ssim`, the mean gain over bicubic at the validated scales, `steps`, and the objective of a sweep.

    Args:
        kind: Kind of the event.
        step: Number of steps done.
        values: Values of the event, by name.
    """
    found = {_grouped(name): value for name, value in values.items()}
    if kind == "validated":
        found[STEPS] = float(step)
        if "val_psnr_gain" in values:
            found[GAIN_DB] = values["val_psnr_gain"]
        if gains := _ssim_gains(values):
            found[GAIN_SSIM] = fmean(gains)
    return found


def _grouped(name: str) -> str:
    if name in TOP:
        return name
    prefix = next((prefix for prefix in GROUPS if name.startswith(prefix)), "")
    return f"{GROUPS[prefix]}{name.removeprefix(prefix)}" if prefix else f"run/{name}"


def _ssim_gains(values: Mapping[str, float]) -> list[float]:
    bicubic = "val_ssim_bicubic_"
    scales = [name.removeprefix(bicubic) for name in values if name.startswith(bicubic)]
    names = [(f"val_ssim_model_{scale}", f"{bicubic}{scale}") for scale in scales]
    return [values[model] - values[other] for model, other in names if model in values]
