"""What a cohort is made of, and where each result goes: folders of files, and prefixes of buckets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cluster.store import open_store
from metasr.data import bids, picture
from metasr.data.inputs import Input, find_inputs, listed_inputs
from metasr.errors import ConfigError, DataError
from metasr.inference.output import ENDINGS
from metasr.inference.plan import plan
from metasr.inference.request import Request

BELOW = Path()  # stands for the place of results: their paths are below it
ALL_ENDINGS = (*ENDINGS, *picture.ENDINGS)


class Item(NamedTuple):
    """One volume of a cohort.

    Attributes:
        input: A file that all nodes can read; where the cohort has a source, a name in it.
        output_url: Store of the result.
        key: Of the result.
    """

    input: Input
    output_url: str
    key: str

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.input.below.as_posix()


@dataclass(frozen=True)
class Cohort:
    """Volumes, and where their results go.

    Attributes:
        items: One for each result.
        source: Store of the inputs; empty where they are files.
        output_url: The store that all results go to; empty where they lie beside their inputs.
        notes: What was left out, and why.
    """

    items: tuple[Item, ...]
    source: str
    output_url: str
    notes: tuple[str, ...]


def is_bucket(place: Path | str) -> bool:
    """Return whether a place is in a bucket."""
    return str(place).lower().startswith("s3:")


def find_cohort(named: Sequence[Path | str], output: Path | str | None, request: Request) -> Cohort:
    """Return what is to be made of what.

    Args:
        named: Files, folders and patterns; or one URL of a prefix, or of a file, in a bucket.
        output: Folder or URL of the results.
        request: Says what names of results say.

    Raises:
        ConfigError: Several inputs of which one is a URL, or no output where there must be one.
        DataError: There is nothing to be read.
        StoreError: A store cannot be read.
    """
    source = str(named[0]) if is_bucket(named[0]) else ""
    if any(map(is_bucket, named)) and len(named) > 1:
        raise ConfigError(" ".join(map(str, named)), "a bucket is the only input", "Run one command for each")
    if not source:
        inputs, notes = find_inputs([Path(each) for each in named])
    else:
        source, inputs, notes = _listed(source)
    where = None if output is None else str(output)
    if source and where is None:
        if not inputs[0].dataset:
            raise ConfigError(source, "results must not lie among the inputs", "Give OUT, a folder or another prefix")
        where = f"{source}/{bids.derivatives(BELOW).as_posix()}"
    if where is None:
        tasks = plan(inputs, None, request)
        items = [Item(task.input, task.output.parent.absolute().as_uri(), task.output.name) for task in tasks]
        return Cohort(tuple(items), "", "", tuple(notes))
    if where.lower().endswith(ALL_ENDINGS) and len(inputs) == 1:
        where, _, key = where.rpartition("/")
        return Cohort((Item(inputs[0], open_store(where or ".").url, key),), source, "", tuple(notes))
    url = open_store(where).url
    items = [Item(task.input, url, task.output.as_posix()) for task in plan(inputs, BELOW, request)]
    return Cohort(tuple(items), source, url, tuple(notes))


def _listed(url: str) -> tuple[str, list[Input], list[str]]:
    """Return the store of a URL, and what is to be read there: of one file, or of all below a prefix."""
    if url.lower().endswith(ALL_ENDINGS):
        place, _, name = url.rpartition("/")
        inputs, _ = listed_inputs([name], BELOW)
        return open_store(place).url, inputs or [Input(Path(name), "volume", Path(name))], []
    store = open_store(url)
    inputs, notes = listed_inputs(store.all_keys(), BELOW)
    if not inputs:
        reason = "it holds no image that can be read"
        raise DataError(store.url, reason, f"These can: {', '.join(ALL_ENDINGS)}; others in a folder alone")
    return store.url, inputs, notes
