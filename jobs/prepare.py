"""metasr prepare: turn a folder of NIfTI volumes, or of photographs, into training shards."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config import PrepareConfig
from cluster.watch.bar import CLEAR_LINE
from jobs.cli import Parser, add_settings, json_output, run, say, settings
from metasr.errors import ConfigError

if TYPE_CHECKING:
    from cluster.shards import Index
    from cluster.store import Store

DESCRIPTION = """Turn a folder of NIfTI volumes, or of photographs, into training shards.

Finds one volume per subject (BraTS, BIDS, a folder per patient, or any folder of NIfTI files), scales its
intensities, cuts its axial slices, splits the patients into training and validation, and writes WebDataset shards and
an index. Masks and label maps are left out; the last line counts what was used and what was left out, and why.
Photographs (DIV2K, say) become luminance; those that train are cut into tiles. The same command again continues.

All visits and contrasts of a patient are on one side of the split. Who is who follows from the names: `sub-` in BIDS,
else the name without `_visit2`, `_2019-01-31` and the like, or the folder. Where names do not tell, say it yourself
with --patient-regex or --patients.

  metasr prepare -i BraTS/ -o ~/data/t1ce --modality t1ce
  metasr prepare -i BraTS/ -o s3://bucket/t1ce --modality t1ce     (endpoint and keys: AWS_* variables)
  metasr prepare -i BraTS/ -o ~/data/t1 --modality t1ce,t1         (two contrasts of each patient)
  metasr prepare -i scans/ -o ~/data/mine --patient-regex '^(P[0-9]+)/'    (the folder P... is the patient)
  metasr prepare -i scans/ -o ~/data/mine --patients who.csv       (columns: file or subject, patient)
  metasr prepare -i DIV2K/ -o ~/data/photos --kind photos
  metasr prepare -o ~/data/t1ce --verify        (read a data set again, all of it, and check what its index says)"""


def main(arguments: Sequence[str]) -> None:
    """Prepare a data set."""
    parser = Parser(prog="metasr prepare", description=DESCRIPTION)
    parser.add_argument(
        "-i",
        "--input",
        required="--verify" not in arguments,
        type=Path,
        metavar="FOLDER",
        help="folder with the volumes or photographs",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="URL", help="folder or s3://bucket/prefix for the shards"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="subjects in hand at a time; 1 works without Ray [all CPUs of the cluster or machine; 1 if few]",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="write nothing: say who would train and validate, and how much at most"
    )
    parser.add_argument("--verify", action="store_true", help="write nothing: read what is there, and check it")
    parser.add_argument("--json", action="store_true", help="print what the data set holds as JSON")
    add_settings(parser, PrepareConfig)
    known = parser.parse_known(arguments)
    options = settings(PrepareConfig, known).config
    if known.workers is not None and known.workers < 1:
        raise ConfigError(f"--workers {known.workers}", "nobody would work", "Give 1 or more")

    from cluster.prepare import outline, verify
    from cluster.store import open_store

    store = open_store(known.output)
    with json_output(known.json) as show:
        if known.dry_run:
            lines = outline(known.input, options)
            say("\n".join(lines))
            content: dict[str, object] = {"url": store.url, "would_do": lines}
        elif known.verify:
            index = verify(store, say)
            say(f"{store.url} is whole: {index.summary()}")
            content = _as_json(store.url, index, {})
        else:
            content = _prepared(known, store, options)
        if known.json:
            show(content)


def _prepared(known: argparse.Namespace, store: "Store", options: PrepareConfig) -> dict[str, object]:
    """Prepare, say what came of it, and return that for JSON."""
    from cluster.prepare import prepare

    try:
        report = prepare(known.input, store, options, _tell, workers=known.workers, progress=_show)
    finally:
        _clear()
    say(f"{store.url}: {report.index.summary()}")
    say(report.summary())
    say(f"next: metasr train --recipe smoke --data.url {known.output}")
    return _as_json(store.url, report.index, report.refused)


def _as_json(url: str, index: "Index", refused: dict[str, str]) -> dict[str, object]:
    return {
        "url": url,
        "index_sha256": index.digest(),
        "subjects": {split: len(names) for split, names in index.subjects.items()},
        "images": sum(shard.num_samples for shard in index.shards),
        "shards": len(index.shards),
        "mean": index.mean,
        "std": index.std,
        "left_out": refused,
    }


def _tell(line: str) -> None:
    """Print a line that stays."""
    _clear()
    say(line)


def _show(line: str) -> None:
    """Print a line of progress: on a terminal in place of the one before, and no longer than the terminal is wide."""
    if sys.stdout.isatty():
        _clear()
        print(line[: shutil.get_terminal_size().columns - 1], end="", flush=True)
    else:
        say(line)


def _clear() -> None:
    """Remove the line of progress from a terminal."""
    if sys.stdout.isatty():
        print(CLEAR_LINE, end="", flush=True)


if __name__ == "__main__":
    run(main)
