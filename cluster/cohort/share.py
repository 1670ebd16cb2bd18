"""A cohort shared among workers: one driver at a time, its outcomes in order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from cluster.cohort.places import Cohort, Item
from cluster.cohort.work import Outcome, Setup, make
from cluster.runtime.ordered_map import Lost, Needs, in_order
from cluster.store import open_store
from cluster.store.lease import Lease, RunTakenError
from metasr.errors import ConfigError

LEASE = ".upscale"


def upscale_cohort(
    cohort: Cohort, setup: Setup, tell: Callable[[str], None], *, workers: int | None, needs: Needs
) -> Iterator[tuple[Item, Outcome]]:
    """Yield what became of each volume, in order, as they are worked on.

    Results that are there, and were made by the same model of the same input as asked for, are not made again. A
    volume whose worker dies is worked on again by another.

    Args:
        cohort: The volumes.
        setup: What is done to each.
        tell: Told of a wait.
        workers: Volumes in hand at a time, see `in_order`.
        needs: What each reserves on Ray.

    Raises:
        ConfigError: Another command writes results there, or Ray cannot be reached.
        StoreError: The place of the results cannot be written to.
    """
    with _alone(cohort.output_url, tell), in_order(workers, len(cohort.items), needs, 2) as map_in_order:
        outcomes = map_in_order(partial(make, setup), cohort.items)
        for item, outcome in zip(cohort.items, outcomes, strict=True):
            if isinstance(outcome, Lost):
                yield item, Outcome(error=f"{item.name}: {outcome}")
            else:
                yield item, outcome


@contextmanager
def _alone(url: str, tell: Callable[[str], None]) -> Iterator[None]:
    """See that no other command works on results at the same place; where that is one."""
    if not url:
        yield
        return
    try:
        lease = Lease.acquire(open_store(url), LEASE, tell)
    except RunTakenError as error:
        raise ConfigError(f"output {url}", error.why, "Wait for its end, or give another place") from None
    with lease:
        yield
