"""An evaluation: what it depends on, and its results."""

from typing import NamedTuple

from cluster.command import command
from cluster.config import TrackingConfig
from metasr.config import Section
from metasr.evaluation import Score
from metasr.evaluation.downstream import Outcome, StepName
from metasr.formats import FORMAT


class Evidence(Section):
    """What was evaluated, on what data, how, and by which code; kept in the manifest of the results."""

    format: int = FORMAT
    """Format version of this JSON."""
    bundle_sha256: str
    """SHA-256 of the bundle's manifest, which names every file."""
    data_sha256: str
    """SHA-256 of the data's index, which names every shard."""
    data_url: str
    """URL of the data at that time."""
    scales: tuple[str, ...]
    slices_per_subject: int
    """0: all."""
    regions: tuple[str, ...]
    degradation: str
    noise: float
    code_version: str
    downstream: tuple[StepName, ...] = ()
    """Steps of downstream evaluation that were done."""
    downstream_command: str = ""
    """Command line of the step `command`."""
    downstream_slice_mm: float = 0

    def evaluate(self, reference: str, tracking: TrackingConfig, *more: str) -> str:
        """Return the command that evaluates another version in the same way, with more arguments."""
        settings = {
            "data.url": self.data_url,
            "eval.scales": ",".join(self.scales),
            "eval.slices-per-subject": str(self.slices_per_subject),
        }
        flags = [text for name, value in settings.items() for text in (f"--{name}", value)]
        flags += ["--downstream", "tissue"] if "tissue" in self.downstream else []
        flags += ["--downstream-command", self.downstream_command] if self.downstream_command else []
        flags += ["--downstream.slice-mm", f"{self.downstream_slice_mm:g}"] if self.downstream_slice_mm else []
        return command("evaluate", "--model", reference, *flags, *more, tracking=tracking)


class Evaluated(NamedTuple):
    """A verified evaluation.

    Attributes:
        evidence: What it depends on.
        sha256: SHA-256 of the manifest of the results: the identity of the evaluation.
        scores: One row per subject, slice, scale, method and region.
        outcomes: Results of downstream evaluation, if any.
    """

    evidence: Evidence
    sha256: str
    scores: list[Score]
    outcomes: list[Outcome]
