"""metasr sync: send MLflow the records that it missed while unreachable."""

from collections.abc import Sequence

from cluster.command import command
from cluster.config import JobConfig, expand
from cluster.redaction import without_password
from jobs.cli import Parser, add_settings, run, say, settings
from metasr.errors import StoreError

DESCRIPTION = """Send MLflow the records that it missed while unreachable: metrics, pictures and models that runs
have kept on this machine.

Each run's records go to the MLflow that tracked the run, unless --tracking.uri is given. It is safe to run twice,
beside a run that sends its own records, and after Ctrl-C.

  metasr sync
  metasr sync --tracking.uri http://mlflow:5000"""


def main(arguments: Sequence[str]) -> int:
    """Send the records; return the exit code."""
    parser = Parser(prog="metasr sync", description=DESCRIPTION)
    add_settings(parser, JobConfig, "tracking")
    resolved = settings(JobConfig, parser.parse_known(arguments))

    from cluster.outbox.sync import sync

    uri_is_given = resolved.origins["tracking.uri"] != "default"
    say(f"looking for records in {expand(resolved.config.tracking.spool)}")
    synced = sync(resolved.config.tracking, say, uri_is_given)
    if synced.failure:
        where = ["--tracking.uri", without_password(resolved.config.tracking.uri)] if uri_is_given else []
        again = command("sync", *where, tracking=resolved.config.tracking)
        error = StoreError("not all records were sent", synced.failure, f"Run `{again}` again when MLflow is back")
        error.exit_code = 1
        raise error
    say("nothing else is left to send" if synced.num_skipped else "nothing is left to send")
    return 0


if __name__ == "__main__":
    run(main)
