"""Runs in MLflow, and the files that they kept."""

from pathlib import Path

from cluster.tracking import Run


def start(config, name="run-1"):
    return Run.start(config, name, {}, {})


def artifact(client, run_id, path, folder):
    return Path(client.download_artifacts(run_id, path, str(folder))).read_bytes()
