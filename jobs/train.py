"""metasr train: train a generator with Ray Train, or go on with it, and register the best."""

from collections.abc import Sequence

from cluster.config import JobConfig
from jobs.cli import Parser, add_settings, run, say, settings

DESCRIPTION = """Train a generator with Ray Train, track it in MLflow, and register the best checkpoint's generator.

The same command again continues where it stopped. With RAY_ADDRESS set, as in `ray job submit`, it trains on that
cluster; without, it starts Ray on this machine.

  metasr train --recipe smoke --data.url ~/data/t1ce
  metasr train --recipe paper --data.url s3://bucket/t1ce --resources.num-workers 8 --resources.gpu true
  metasr train --recipe photos --data.url ~/data/photos      (then, on MRI, from what that learned:)
  metasr train --recipe brats --data.url ~/data/t1ce --init-from challenger
  metasr train --recipe smoke --train.steps 500 --print-config"""


def main(arguments: Sequence[str]) -> None:
    """Train."""
    parser = Parser(prog="metasr train", description=DESCRIPTION)
    parser.add_argument(
        "--recipe", default="default", help="name of a recipe in jobs/recipes, or a YAML file [default]"
    )
    parser.add_argument(
        "--init-from",
        default="",
        metavar="MODEL",
        help="start from the weights of this alias, version, models:/... or bundle folder [random weights]",
    )
    parser.add_argument("--print-config", action="store_true", help="print every setting and its source, and stop")
    add_settings(parser, JobConfig)
    known = parser.parse_known(arguments)
    resolved = settings(JobConfig, known, known.recipe)
    if known.print_config:
        print(resolved.text())
        return

    from cluster.trainer import train

    trained = train(resolved, known.recipe, say, known.init_from)
    config = resolved.config.tracking
    state = "was already finished" if trained.already_done else "finished"
    say(f"run {trained.run_name} {state}: version {trained.version} of {config.model}, the challenger")
    if trained.already_done:
        say("the same settings on the same data are the same run; change --train.seed to train another")
    say("next: metasr evaluate, then metasr promote")


if __name__ == "__main__":
    run(main)
