"""The images of chosen cases: their slices are read again, and enlarged by each method."""

from collections.abc import Mapping, Sequence

from cluster.shards import Index
from cluster.store import Store
from cluster.stream import slices_of
from cluster.stream.verified import read_shard
from metasr.errors import DataError
from metasr.evaluation import BICUBIC, HeldOutSlice, Method
from metasr.evaluation.methods import MODEL_NAME
from metasr.evaluation.protocol import Comparison, compare
from metasr.inference.bundle import Bundle
from metasr.report import Case


def comparisons_of(
    cases: Sequence[Case], bundle: Bundle, others: Mapping[str, Bundle], store: Store, index: Index
) -> list[tuple[Case, Comparison]]:
    """Return cases with their images: bicubic, the model and the other models.

    Args:
        cases: Slices at scales.
        bundle: The model.
        others: Other models by the names of their methods; those of one scale are shown at that scale.
        store: The data's store.
        index: Its index.

    Raises:
        MetaSRError: A slice cannot be read, or is no longer there.
    """
    networks = [Method(name, other.generator) for name, other in others.items()]
    methods = [BICUBIC, *networks, Method(MODEL_NAME, bundle.generator)]
    held: dict[str, dict[int, HeldOutSlice]] = {}
    found = []
    for case in cases:
        if case.subject not in held:
            held[case.subject] = _slices(store, index, case.subject)
        if case.slice not in held[case.subject]:
            raise DataError(f"slice {case.slice} of {case.subject}", "the data has no such slice", "Evaluate again")
        able = [method for method in methods if method.only_scale in (None, case.scale)]
        found.append((case, compare(able, held[case.subject][case.slice], case.scale, bundle.degradation)))
    return found


def _slices(store: Store, index: Index, subject: str) -> dict[int, HeldOutSlice]:
    """Return all slices of a validation subject by number."""
    for shard in index.shards:
        # Older indices do not list the subjects of a shard.
        is_here = shard.split == "val" and (
            subject in shard.subjects
            if shard.subjects
            else any(sample.subject == subject for sample in read_shard(store, index, shard))
        )
        if is_here:
            return {one.number: one for one in slices_of(store, index, shard, subject, 0)}
    return {}
