"""The rules and the dashboard of infra/monitoring: they work, and name what the code exports."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.watch.exported import METRICS, name_in_prometheus

FOLDER = Path(__file__).parents[2] / "infra" / "monitoring"
EXPORTED = {name_in_prometheus(name): metric for name, metric in METRICS.items()}
OURS = re.compile(r"\bray_metasr_\w+")
OF_RAY = {"WorkerId", "SessionName"}


def promtool(*arguments):
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_stays_silent_otherwise():
    promtool("test", "rules", "rules-test.yaml")


def test_prometheus_takes_the_configuration():
    promtool("check", "config", "prometheus.yaml")


def test_the_tests_of_the_rules_know_every_alert():
    alerts = set(re.findall(r"alert: (\w+)", (FOLDER / "rules.yaml").read_text()))
    assert alerts
    assert alerts == set(re.findall(r'alertname="(\w+)"', (FOLDER / "rules-test.yaml").read_text()))


@pytest.mark.parametrize("name", ["rules.yaml", "rules-test.yaml", "dashboard.json"])
def test_only_metrics_that_are_exported_are_named(name):
    named = set(OURS.findall((FOLDER / name).read_text()))
    assert named
    assert named <= set(EXPORTED)


def test_every_metric_is_on_the_dashboard():
    assert set(EXPORTED) == set(OURS.findall((FOLDER / "dashboard.json").read_text()))


def test_only_labels_that_the_metric_has_are_named():
    for name in ("rules.yaml", "rules-test.yaml"):
        for metric, labels in re.findall(r"\b(ray_metasr_\w+)\{([^}]*)\}", (FOLDER / name).read_text()):
            assert set(re.findall(r"(\w+)=", labels)) <= {*EXPORTED[metric].labels, *OF_RAY}, metric


def test_the_dashboard_lets_a_person_choose_among_all_runs_at_work():
    board = json.loads((FOLDER / "dashboard.json").read_text())
    asked = {one["name"]: one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"}
    always = "ray_metasr_driver_started_timestamp_seconds"
    assert asked["TrainRunName"] == f"label_values({always}, run)"
    assert asked["SessionName"] == f"label_values({always}, SessionName)"


def test_the_dashboard_is_what_its_script_writes():
    done = subprocess.run([sys.executable, FOLDER / "dashboard.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
