"""metasr promote: make an evaluated model the champion, or return to the previous one."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.command import command
from cluster.config import PromotionConfig
from jobs.cli import Parser, add_settings, json_output, run, say, settings
from metasr.errors import ConfigError

if TYPE_CHECKING:
    from cluster.registry import Registry

DESCRIPTION = """Make an evaluated model the champion, which `metasr upscale` uses.

Its evaluation (`metasr evaluate`) must show, on whole slices, at all of --gate.scales: PSNR and SSIM nowhere below
bicubic; against the champion, if there is one, no scale worse by more than a margin, and better on average over the
scales. Both must have been evaluated on the same data, scales and slices, and on no less than the champion at its
promotion. The comparison and the results of the rules are printed before the champion changes. Every change of
champion is recorded in MLflow, in the registered model NAME.promotions.

--gate.downstream tissue (or command) also requires an evaluation with --downstream tissue (or --downstream-command),
and compares its Dice like PSNR.

  metasr promote
  metasr promote 3
  metasr promote --gate.downstream tissue
  metasr promote --tracking.model edsr-x2 --gate.scales 2
  metasr promote 3 --force "sharper, accepted by the readers"
  metasr promote --history
  metasr promote --history --json
  metasr promote --rollback"""


def main(arguments: Sequence[str]) -> None:
    """Promote, roll back, or print the history."""
    parser = Parser(prog="metasr promote", description=DESCRIPTION)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "named", nargs="?", metavar="MODEL", help="alias, version, models:/..., or name of a run [challenger]"
    )
    what.add_argument("--model", default="challenger", metavar="MODEL", help="the same as MODEL")
    what.add_argument("--history", action="store_true", help="print who was champion when, and why; change nothing")
    what.add_argument("--rollback", action="store_true", help="return to the previous champion; twice goes back two")
    parser.add_argument("--force", metavar="REASON", help="promote against the gate; REASON is recorded")
    parser.add_argument("--json", action="store_true", help="print the change, or the history, as JSON")
    add_settings(parser, PromotionConfig)
    known = parser.parse_known(arguments)
    config = settings(PromotionConfig, known).config
    if known.force is not None and (known.history or known.rollback):
        raise ConfigError("--force", "it is only for promotions", "Omit it")

    from cluster.registry import Registry, history

    registry = Registry(config.tracking)
    if known.history and not known.json:
        say("\n".join(history(registry)) or f"{config.tracking.model} has had no champion")
        return
    with json_output(known.json) as show:
        if known.history:
            from cluster.catalogue.models import list_promotions

            show(list_promotions(config.tracking))
        else:
            change = _change(registry, known, config)
            if known.json:
                show(change)


def _change(registry: "Registry", known: argparse.Namespace, config: PromotionConfig) -> dict[str, str | None]:
    """Promote or roll back, say so, and return the change as a JSON value."""
    from cluster.registry import against_gate, promote, rollback

    before: str | None
    reason = ""
    if known.rollback:
        version, before = rollback(registry, say)  # which says it of a version that was promoted against the gate
    else:
        version, before = promote(registry, known.named or known.model, config.gate, say, force=known.force)
        reason = against_gate(registry, version)
    change = "the first" if before is None else "unchanged" if before == version else f"instead of version {before}"
    forced = f", against the gate: {reason}" if reason else ""
    say(f"version {version} of {config.tracking.model} is the champion, {change}{forced}")
    files = "-i", "in.nii.gz", "-o", "out.nii.gz", "--scale", "2.5"
    say(f"next: {command('upscale', *files, tracking=config.tracking)}")
    return {"model": config.tracking.model, "version": version, "before": before, "against_gate": reason or None}


if __name__ == "__main__":
    run(main)
