"""The report of an evaluation as a page: gather what a decision needs, and write it beside the other files."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from cluster.command import command
from cluster.config import GateConfig
from cluster.evaluation.models import load_model
from cluster.evaluation.pictured import comparisons_of
from cluster.redaction import without_password
from cluster.registry import Located, Registry
from cluster.registry.card import model_card
from cluster.registry.champion import beside_champion
from cluster.registry.evidence import evaluate_again, fetch_evaluation, reference_to
from cluster.registry.gate import judge
from cluster.registry.records import Evaluated
from cluster.store import open_store
from cluster.stream import read_index
from cluster.tracking import Run
from metasr.config import ExperimentConfig
from metasr.errors import MetaSRError, RegistryError
from metasr.evaluation.folder import SUMMARY, TABLE
from metasr.evaluation.report import Circumstances
from metasr.inference.bundle import Bundle
from metasr.report import Champion, Report, Rule, cases_of, write_report
from metasr.report.content import Curves

CURVES = ("gain_", "loss/", "validation/psnr_", "validation/ssim_")
NO_PICTURES = "Pictures are turned off (tracking.pictures)."


@dataclass(frozen=True)
class Judged:
    """An evaluated model.

    Attributes:
        located: Which it is.
        bundle: Its network.
        rivals: Other models that were evaluated beside it, by the names of their methods.
        about: What the evaluation depends on.
        evaluated: Its results.
        tables: Its tables as text.
        data_url: Where its slices are.
    """

    located: Located
    bundle: Bundle
    rivals: Mapping[str, Bundle]
    about: Circumstances
    evaluated: Evaluated
    tables: str
    data_url: str

    @property
    def reference(self) -> str:
        """What names the model in commands."""
        located = self.located
        return f"models:/{located.model}/{located.version}" if located.version else self.about.model

    @property
    def title(self) -> str:
        """What names the model in the heading."""
        located = self.located
        return f"{located.model} version {located.version}" if located.version else self.about.model


def write_page(path: Path, registry: Registry, judged: Judged) -> None:
    """Write the report; what cannot be had is left out, and the page says why."""
    write_report(path, _report(registry, judged))


def judged_version(registry: Registry, reference: str, data_url: str = "") -> Judged:
    """Return a version with its newest evaluation.

    Args:
        registry: Registry of the version.
        reference: See `Registry.version`.
        data_url: Where the slices are; empty: where they were.

    Raises:
        MetaSRError: There is no such version, it has not been evaluated, or its evaluation or bundle is damaged.
    """
    version = registry.version(reference)
    with tempfile.TemporaryDirectory() as temporary:
        evaluated, folder = fetch_evaluation(registry, version, Path(temporary))
        try:
            content = json.loads((folder / SUMMARY).read_text())
            about = Circumstances(**{field.name: content[field.name] for field in fields(Circumstances)})
            tables = (folder / TABLE).read_text()
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = f"the evaluation of version {version.version}"
            raise RegistryError(what, f"its {SUMMARY} is not there", evaluate_again(registry, version)) from error
    located, bundle = load_model(registry, reference_to(version))
    return Judged(located, bundle, {}, about, evaluated, tables, data_url or evaluated.evidence.data_url)


def _report(registry: Registry, judged: Judged) -> Report:
    evaluated, bundle = judged.evaluated, judged.bundle
    found = registry.version(judged.reference) if judged.located.version else None
    beside = beside_champion(registry, found, evaluated)
    pictures, no_pictures = [], "" if registry.config.pictures else NO_PICTURES
    if registry.config.pictures:
        try:
            store = open_store(judged.data_url)
            index = read_index(store, evaluated.evidence.data_sha256)
            others = dict(judged.rivals)
            if beside.reference:
                others[beside.method] = load_model(registry, beside.reference)[1]
            pictures = comparisons_of(cases_of(beside.scores), bundle, others, store, index)
        except MetaSRError as error:
            no_pictures = f"There are no pictures: {without_password(str(error))}."
    return Report(
        title=judged.title,
        about=judged.about,
        scores=beside.scores,
        outcomes=evaluated.outcomes,
        pictures=pictures,
        no_pictures=no_pictures,
        champion=Champion(beside.method, beside.text),
        rules=[Rule(one.rule, one.passed, one.numbers) for one in judge(beside.scores, GateConfig())],
        curves=_curves(registry, str(found.run_id) if found else ""),
        card=model_card(judged.reference, bundle.about, evaluated.evidence, evaluated.scores, evaluated.outcomes),
        commands=_commands(registry, judged),
        settings=recipe_text(bundle.about),
        tables=judged.tables,
    )


def _curves(registry: Registry, run_id: str) -> Curves:
    try:
        return Run(registry.config, run_id).history(CURVES) if run_id else {}
    except MetaSRError:
        return {}


def _commands(registry: Registry, judged: Judged) -> list[tuple[str, str]]:
    """Return what to do, and the command that does it."""
    about, evidence = judged.bundle.about, judged.evaluated.evidence
    tracking, reference = registry.config, judged.reference
    recipe = f"{about['run_name'].rpartition('-')[0] or 'recipe'}.yaml"
    url = without_password(str(about["data_url"]))
    more = [*(["--init-from", "BUNDLE"] if about.get("initial_bundle") else [])]
    found = [("Evaluate it again:", without_password(evidence.evaluate(reference, tracking)))]
    if judged.located.version:
        found.append(("Make it the champion:", command("promote", "--model", reference, tracking=tracking)))
    files = "-i", "in.nii.gz", "-o", "out.nii.gz", "--scale", f"{judged.bundle.trained_scales[1]:g}"
    found.append(("Use it:", command("upscale", "--model", reference, *files, tracking=tracking)))
    trained = command("train", "--recipe", recipe, "--data.url", url, *more, tracking=tracking)
    found.append((f"Train it again, with the settings below saved as {recipe}:", trained))
    return found


def recipe_text(about: Mapping[str, Any]) -> str:
    """Return the settings of a bundle that are no defaults, as the YAML of a recipe."""
    defaults = ExperimentConfig().model_dump(mode="json")
    chosen = {
        section: {name: value for name, value in values.items() if value != defaults.get(section, {}).get(name)}
        for section, values in about["config"].items()
        if isinstance(values, dict)
    }
    chosen.get("data", {}).pop("url", None)
    return yaml.safe_dump({section: values for section, values in chosen.items() if values}, sort_keys=False)
