"""Evaluation on a real Ray: the same bits as in one process, whatever happens to the workers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cluster.store import open_store
from cluster.stream import held_out_slices, read_index
from metasr.evaluation import LANCZOS, Method, evaluate
from metasr.evaluation.outcomes import from_csv as outcomes_from_csv
from metasr.evaluation.tables import to_csv
from metasr.inference.bundle import load_bundle
from metasr.scale import Scale
from tests.cluster.patients import OPTIONS, SUBJECTS, run_prepare
from tests.cluster.registered import flip, make_bundle
from tests.patience import PATIENCE_S

EVALUATE = Path(__file__).parents[2] / "jobs" / "evaluate.py"
SCALES = "2", "1x1.5"
VAL = SUBJECTS[1], SUBJECTS[2]

# In a process of its own, because Ray leaves processes behind for Python to complain about. It measures what each
# line of its input asks for, on one connection to Ray, whose workers import torch once.
MEASURE = """
import json, os, sys
from dataclasses import dataclass
from pathlib import Path
import torch
from cluster.evaluation.measure import measure
from cluster.evaluation.tasks import Setup, Weights, shares
from cluster.runtime.connection import connected
from cluster.runtime.ordered_map import Needs
from cluster.store import open_store
from cluster.stream import read_index
from metasr.errors import MetaSRError
from metasr.evaluation.outcomes import to_csv as outcomes_to_csv
from metasr.evaluation.segmentation import Command
from metasr.evaluation.tables import to_csv
from metasr.evaluation.tissue import Tissue
from metasr.inference.bundle import load_bundle
from metasr.scale import Scale

@dataclass(frozen=True)
class Dies(Tissue):
    "The process dies at a subject, the first time or every time."
    marker: str = ""
    subject: str = ""
    always: bool = False

    def labeller(self, subject, hr, grid):
        if subject == self.subject and (self.always or not Path(self.marker).exists()):
            Path(self.marker).touch()
            os._exit(1)
        return super().labeller(subject, hr, grid)

def found_by(url, bundle, scales, workers, step, marker):
    store = open_store(url)
    index = read_index(store)
    loaded = load_bundle(Path(bundle), torch.device("cpu"))
    parts = shares(store, index, 0)
    steps = {
        "none": [],
        "tissue": [Tissue()],
        "dies once": [Dies(marker=marker, subject=parts[-1].subject)],
        "dies always": [Dies(marker=marker, subject=parts[-1].subject, always=True)],
        "fails": [Command("false {input} {output}")],
    }[step]
    setup = Setup(
        store.url, index, Weights.of(loaded), {"again": Weights.of(loaded)}, tuple(map(Scale.parse, scales)), 0,
        loaded.degradation, None, 0.0, Needs(), parts[0].subject,
    )
    lines = []
    try:
        found = measure(setup, parts, steps, workers=workers, progress=lambda text, part: lines.append(text))
    except MetaSRError as error:
        return {"error": str(error)}
    pictured = [(one.slice.subject, one.slice.number, str(one.scale)) for one in found.result.comparisons]
    return {
        "scores": to_csv(found.result.scores), "outcomes": outcomes_to_csv(found.outcomes), "lines": lines,
        "pictured": pictured, "parts": len(parts),
    }

with connected(cpus=1):
    for line in sys.stdin:
        print(json.dumps(found_by(*json.loads(line))), flush=True)
"""


@pytest.fixture(scope="module")
def url(volumes, tmp_path_factory):
    """Two patients who validate, in two shards."""
    store = open_store(str(tmp_path_factory.mktemp("data")))
    run_prepare(volumes, store, OPTIONS.model_copy(update={"val_subjects": VAL, "min_brain": 0.0}))
    return store.url


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "1", 1)


@pytest.fixture(scope="module")
def measured(url, bundle, cluster, tmp_path_factory):
    """What a process finds that has joined the cluster; with one worker it does all itself."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", MEASURE], env=cluster[1], **pipes) as process:

        def call(workers, step="none", url=url, marker=None):
            marker = str(marker or tmp_path_factory.mktemp("marker") / "died")
            process.stdin.write(json.dumps([url, str(bundle), SCALES, workers, step, marker]) + "\n")
            process.stdin.flush()
            while (line := process.stdout.readline()) and not line.startswith("{"):
                pass  # Ray says who died
            return json.loads(line)

        yield call
        process.stdin.close()
        process.stdout.read()  # Ray prints at its end what its workers have left unsaid
    assert process.returncode == 0


@pytest.fixture(scope="module")
def alone(measured):
    return measured(1, "tissue")


def test_the_scores_of_parts_are_those_of_all_slices_at_once(url, bundle, alone):
    store, before = open_store(url), torch.get_num_threads()
    slices = held_out_slices(store, read_index(store), 0)
    model = load_bundle(bundle, torch.device("cpu"))
    torch.set_num_threads(1)
    try:
        rivals = [LANCZOS, Method("again", model.generator)]
        whole = evaluate(model.generator, slices, list(map(Scale.parse, SCALES)), rivals=rivals, pictured=[])
    finally:
        torch.set_num_threads(before)
    assert alone["parts"] > len(VAL)
    assert alone["scores"] == to_csv(whole.scores)


def test_two_at_once_find_the_same_bits_in_the_same_order(alone, measured):
    assert measured(2, "tissue") == alone
    assert {row.subject for row in outcomes_from_csv(alone["outcomes"])} == set(VAL)
    assert len(alone["pictured"]) == len(SCALES)


def test_a_worker_that_dies_once_changes_nothing(alone, measured, tmp_path):
    assert measured(2, "dies once", marker=tmp_path / "died") == alone
    assert (tmp_path / "died").exists()


def test_a_subject_at_which_every_worker_dies_is_named(measured):
    error = measured(2, "dies always")["error"]
    assert error.startswith(f"subject {VAL[1]}: the process that read it died")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_command_that_fails_is_named_with_its_subject(measured, workers):
    error = measured(workers, "fails")["error"]
    assert error.startswith(f"subject {VAL[0]}: false: exit code 1, stderr: empty")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_shard_is_named_with_its_subject(measured, url, tmp_path, workers):
    folder = shutil.copytree(url.removeprefix("file://"), tmp_path / "damaged")
    shard = next(shard for shard in read_index(open_store(str(folder))).shards if VAL[1] in shard.subjects)
    flip(folder / shard.name)
    error = measured(workers, url=str(folder))["error"]
    assert error.startswith(f"subject {VAL[1]}: ")
    assert shard.name in error


def test_ctrl_c_ends_it_and_the_program_that_it_runs(cluster, url, bundle, tmp_path):
    started = tmp_path / "started"
    program = tmp_path / "slow.sh"
    program.write_text(f"#!/bin/sh\necho $$ > {started}.part\nmv {started}.part {started}\nexec sleep 300\n")
    program.chmod(0o755)
    command = [sys.executable, EVALUATE, bundle, "--data.url", url, "--eval.scales", "2", "--workers", "1"]
    command += ["--downstream-command", f"{program} {{input}} {{output}}", "--tracking.uri"]
    process = subprocess.Popen(
        [*map(str, command), f"sqlite:///{tmp_path}/mlflow.db"],
        env=cluster[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not started.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "slices scored" in out
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
