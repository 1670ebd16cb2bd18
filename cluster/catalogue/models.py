"""The versions of a registered model: which run each came from, what it gained, and what the gate said of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cluster.catalogue.stored import stored_runs
from cluster.catalogue.tracked import EVALUATED, VALIDATED, require_there
from cluster.config import StorageConfig, TrackingConfig, expand
from cluster.registry import EVALUATION, Registry
from cluster.registry.history import Entry, History
from cluster.registry.verdict import verdict_of
from cluster.tracking import explained
from metasr.errors import StoreError


@dataclass(frozen=True)
class ListedVersion:
    """A version of the registered model.

    Attributes:
        version: Its number; empty where MLflow is away.
        aliases: Such as champion.
        run: Name of the run that registered it.
        gain_db: PSNR gain over bicubic: as evaluated, else at the run's validation; None if unknown.
        is_evaluated: Whether the gain is that of `metasr evaluate`.
        gate: What the gate said of it, in words.
        created: When it was registered; None if unknown.
    """

    version: str
    aliases: tuple[str, ...]
    run: str
    gain_db: float | None
    is_evaluated: bool
    gate: str
    created: datetime | None


@dataclass(frozen=True)
class ModelListing:
    """The versions of a model, the newest first, and why some or all may be missing.

    Attributes:
        model: Its name.
        versions: Of the model; without MLflow, what the storage knows of them.
        others: Names of other registered models.
        problems: What could not be asked, and why.
    """

    model: str
    versions: tuple[ListedVersion, ...]
    others: tuple[str, ...]
    problems: tuple[str, ...]


def list_models(storage: StorageConfig, tracking: TrackingConfig) -> ModelListing:
    """Return the versions of `tracking.model`; without MLflow, the runs that the storage says became versions of it.

    Args:
        storage: Where checkpoints of runs are.
        tracking: Where MLflow is, and the name of the model.
    """
    try:
        require_there(tracking)
        return _registered(Registry(tracking))
    except StoreError as error:
        problems = [str(error)]
    versions = list[ListedVersion]()
    try:
        runs = [run for run in stored_runs(storage.url) if run.registered_as == tracking.model]
        versions = [
            ListedVersion("", (), run.name, run.gain_db, False, "unknown without MLflow", run.checkpoint_time)
            for run in runs
        ]
    except StoreError as error:
        problems.append(str(error))
    return ModelListing(tracking.model, tuple(versions), (), tuple(problems))


def list_promotions(tracking: TrackingConfig) -> list[dict[str, Any]]:
    """Return every change of champion as a JSON value, the oldest first.

    Raises:
        StoreError: MLflow does not answer, or refuses.
        FormatError: A later version of the program wrote one.
    """
    registry = Registry(tracking)
    with explained(expand(tracking.uri)):
        entries = History(registry.client, tracking.model).entries()
    return [
        {"number": one.number, "time": one.when.isoformat(), "is_done": one.is_done}
        | one.promotion.model_dump(exclude={"format", "after"})
        for one in entries
    ]


def _registered(registry: Registry) -> ModelListing:
    client, name = registry.client, registry.config.model
    with explained(expand(registry.config.uri)):
        models = {model.name: model for model in client.search_registered_models(max_results=1000)}
        versions = client.search_model_versions(f"name = '{name}'", max_results=1000) if name in models else []
        entries = History(client, name).entries() if versions else []
        aliases = models[name].aliases if name in models else {}
        runs = {str(version.run_id): client.get_run(version.run_id) for version in versions if version.run_id}
        listed = [_listed(version, runs.get(str(version.run_id)), aliases, entries) for version in versions]
    listed.sort(key=lambda one: -int(one.version))
    others = sorted(one for one in models if one != name and not one.endswith(".promotions"))
    return ModelListing(name, tuple(listed), tuple(others), ())


def _listed(version: Any, run: Any, aliases: Mapping[str, str], entries: Sequence[Entry]) -> ListedVersion:
    metrics = run.data.metrics if run else {}
    number = str(version.version)
    return ListedVersion(
        number,
        tuple(sorted(alias for alias, at in aliases.items() if str(at) == number)),
        run.info.run_name if run else "",
        metrics.get(EVALUATED, metrics.get(VALIDATED)),
        EVALUATED in metrics,
        verdict_of(version, entries) or ("not judged yet" if EVALUATION in version.tags else "not evaluated"),
        datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
    )
