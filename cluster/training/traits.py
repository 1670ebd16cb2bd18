"""What a run's data is like, for its bundles: by that, `metasr upscale` knows an input that is unlike it."""

from typing import Any

from cluster.shards import Index
from metasr.data.contrasts import canonical

DIGITS = 4


def traits(index: Index) -> dict[str, Any]:
    """Return what an index says of its images, as `metasr.inference.suitability.TrainedOn` reads it.

    Older indexes say less, and what is not known is left out.
    """
    named = set(index.contrasts.values()) or {word.strip() for word in index.modality.split(",") if word.strip()}
    said = {
        "kind": index.kind,
        "spacing_mm": index.spacing_mm and [round(mm, DIGITS) for mm in index.spacing_mm],
        "skull_stripped": index.skull_stripped,
        "contrasts": sorted(canonical(word) for word in named) or None,
        "mean": round(index.mean, DIGITS),
        "std": round(index.std, DIGITS),
    }
    return {name: value for name, value in said.items() if value is not None}
