"""metasr sync: send MLflow what it missed while it was away."""

from collections.abc import Sequence

from cluster.config import JobConfig
from jobs.cli import Parser, add_settings, run, say, settings
from metasr.errors import StoreError

DESCRIPTION = """Send MLflow what it missed while it was away: metrics, pictures and models that runs
kept on this machine.

Each run's records go to where the run was tracked, unless --tracking.uri says otherwise. It is safe to run twice,
beside a run that sends its records itself, and after Ctrl-C.

  metasr sync
  metasr sync --tracking.uri http://mlflow:5000"""


def main(arguments: Sequence[str]) -> int:
    """Send."""
    parser = Parser(prog="metasr sync", description=DESCRIPTION)
    add_settings(parser, JobConfig, "tracking")
    resolved = settings(JobConfig, parser.parse_known(arguments))

    from cluster.outbox.sync import sync

    synced = sync(resolved.config.tracking, say, resolved.origins["tracking.uri"] != "default")
    if synced.failure:
        error = StoreError("not all records were sent", synced.failure, "Run `metasr sync` again when MLflow is back")
        error.exit_code = 1
        raise error
    say("nothing else is left to send" if synced.num_skipped else "nothing is left to send")
    return 0


if __name__ == "__main__":
    run(main)
