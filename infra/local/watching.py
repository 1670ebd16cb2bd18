"""Prometheus on loopback: what Ray and the store export, and the rules of infra/monitoring."""

import urllib.request
from pathlib import Path

import yaml

from infra.local import nodes
from infra.local.stack import ROOT, Stack, program

RULES = ROOT / "infra" / "monitoring"


def prepare(stack: Stack) -> None:
    """Write what is scraped, and which rules hold."""
    ray = nodes.folder(stack) / "prom_metrics_service_discovery.json"
    scraped = [{"job_name": "ray", "file_sd_configs": [{"files": [str(ray)]}]}]
    if stack.storage == "seaweedfs":
        targets = [f"127.0.0.1:{stack.ports['s3_metrics']}"]
        scraped.append({"job_name": "seaweedfs", "static_configs": [{"targets": targets}]})
    settings = {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": [str(path) for path in rules()],
        "scrape_configs": scraped,
    }
    (stack.place("prometheus") / "prometheus.yml").write_text(yaml.safe_dump(settings))


def rules() -> list[Path]:
    """Return the files with rules: those whose top is `groups`."""
    found = sorted(path for ending in ("*.yml", "*.yaml") for path in RULES.glob(ending))
    return [path for path in found if "groups" in (yaml.safe_load(path.read_text()) or {})]


def command(stack: Stack) -> list[str]:
    """Return the command of the server."""
    place = stack.place("prometheus")
    listen = f"--web.listen-address=127.0.0.1:{stack.ports['prometheus']}"
    files = [f"--config.file={place}/prometheus.yml", f"--storage.tsdb.path={place}/data"]
    return [program("prometheus") or "prometheus", *files, listen, "--storage.tsdb.retention.time=30d"]


def healthy(stack: Stack) -> bool:
    """Return whether the server answers queries."""
    try:
        with urllib.request.urlopen(f"{stack.url('prometheus')}/-/ready", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
