"""What a report says: an evaluation, and what belongs to the decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from metasr.evaluation.downstream import Outcome
from metasr.evaluation.protocol import Comparison, Score
from metasr.evaluation.report import Circumstances
from metasr.report.cases import Case

Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Numbers of a run by name, such as `gain_psnr_db` and `loss/pixel`: (step, value)."""


@dataclass(frozen=True)
class Rule:
    """Whether a rule for promotion holds, with the numbers."""

    text: str
    passed: bool
    numbers: str


@dataclass(frozen=True)
class Champion:
    """The model that is in use.

    Attributes:
        method: Its name among the methods of the scores; empty if it cannot be compared.
        text: Which one it is, or why it is not compared, as a sentence.
    """

    method: str = ""
    text: str = ""


@dataclass(frozen=True)
class Report:
    """The content of a report.

    Attributes:
        title: What was evaluated.
        about: What the evaluation depends on.
        scores: One row per subject, slice, scale, method and region.
        outcomes: Results of downstream evaluation, if any.
        pictures: Chosen cases with their images.
        no_pictures: Why there are none, as a sentence.
        champion: The model in use.
        rules: Of promotion.
        curves: Of the training run.
        card: Model card, Markdown.
        commands: What to do, and the command that does it.
        settings: Settings of the training as YAML.
        tables: The tables of the evaluation as text.
    """

    title: str
    about: Circumstances
    scores: Sequence[Score]
    outcomes: Sequence[Outcome] = ()
    pictures: Sequence[tuple[Case, Comparison]] = ()
    no_pictures: str = ""
    champion: Champion = Champion()
    rules: Sequence[Rule] = ()
    curves: Curves = field(default_factory=dict)
    card: str = ""
    commands: Sequence[tuple[str, str]] = ()
    settings: str = ""
    tables: str = ""
