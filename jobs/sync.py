"""metasr sync: send MLflow the records that it missed while unreachable."""

from collections.abc import Sequence

from cluster.command import command
from cluster.config import JobConfig, expand
from cluster.redaction import without_password
from jobs.cli import Parser, add_settings, json_output, run, say, settings
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
    parser.add_argument("--json", action="store_true", help="print what was sent as JSON")
    add_settings(parser, JobConfig, "tracking")
    known = parser.parse_known(arguments)
    resolved = settings(JobConfig, known)

    from cluster.outbox.sync import sync

    uri_is_given = resolved.origins["tracking.uri"] != "default"
    with json_output(known.json) as show:
        say(f"looking for records in {expand(resolved.config.tracking.spool)}")
        synced = sync(resolved.config.tracking, say, uri_is_given)
        if not synced.failure:
            say("nothing else is left to send" if synced.num_skipped else "nothing is left to send")
        if known.json:
            show({"runs": synced.runs, "skipped": synced.num_skipped, "failure": synced.failure or None})
    if synced.failure:
        where = ["--tracking.uri", without_password(resolved.config.tracking.uri)] if uri_is_given else []
        again = command("sync", *where, tracking=resolved.config.tracking)
        error = StoreError("not all records were sent", synced.failure, f"Run `{again}` again when MLflow is back")
        error.exit_code = 1
        raise error
    return 0


if __name__ == "__main__":
    run(main)
