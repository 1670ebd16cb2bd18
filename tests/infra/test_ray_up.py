"""The file for `ray up` is valid for the Ray that is installed, and starts it as everything else here does."""

import json
import shlex
import subprocess
import sys

import yaml

from tests.cluster.training import ROOT

FILE = ROOT / "infra" / "ray-up.yaml"
VALIDATED = """
import json, sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
config = prepare_config(yaml.safe_load(open(sys.argv[1])) | {"cluster_synced_files": []})
validate_config(config)
print(json.dumps(config))
"""


def test_ray_takes_it():
    done = subprocess.run([sys.executable, "-c", VALIDATED, FILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout.splitlines()[-1])
    assert config["available_node_types"]["gpu"]["max_workers"] == config["max_workers"]


def test_each_machine_starts_ray_with_the_token_and_the_dashboard_on_loopback():
    config = yaml.safe_load(FILE.read_text())
    head, worker = (config[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker"))
    for command in (head, worker):
        assert {"RAY_AUTH_MODE=token", "--disable-usage-stats"} <= set(shlex.split(command))
    assert "--dashboard-host=127.0.0.1" in head
    path = next(part.partition("=")[2] for part in shlex.split(head) if part.startswith("RAY_AUTH_TOKEN_PATH="))
    assert path in config["file_mounts"]
