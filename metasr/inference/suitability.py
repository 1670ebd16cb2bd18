"""What a model was made for, and where a request or an input departs from that."""

from metasr.inference.bundle import Bundle
from metasr.inference.target import Target


def untrained_scales(bundle: Bundle, target: Target) -> str:
    """Return a warning that names the scales of a target that a model was not trained on; empty if there are none."""
    low, high = bundle.trained_scales
    scales = dict.fromkeys(round(scale, 3) for scale in target.scales)
    outside = ", ".join(f"{scale:g}" for scale in scales if scale > 1 and not low <= scale <= high)
    return f"outside the scales that the model was trained on, {low} to {high}: {outside}" if outside else ""
