"""Writes dashboard.json for Grafana: our panels, then those of the Train dashboard that this version of Ray has.

python infra/monitoring/dashboard.py            writes it
python infra/monitoring/dashboard.py --check    compares it
"""

import json
import sys
from pathlib import Path

from ray.dashboard.modules.metrics.dashboards.common import DashboardConfig, Panel, Row, Target
from ray.dashboard.modules.metrics.dashboards.train_dashboard_panels import train_dashboard_config
from ray.dashboard.modules.metrics.grafana_dashboard_factory import _generate_grafana_dashboard

DASHBOARD = Path(__file__).with_name("dashboard.json")
FIRST_ID = 100  # Ray's own panels have lower numbers
RUN = 'run=~"$TrainRunName", {global_filters}'  # Ray Train's run has the name of ours
NOT_OURS = ("Data Ingestion",)  # Ray Data, which we do not use
# What a person chooses from. Ray takes it from a gauge that it sets once, when workers start; ours stays with a run.
CHOICES = {"SessionName": "SessionName", "TrainRunName": "run"}
OF_EVERY_RUN = "ray_metasr_driver_started_timestamp_seconds"

# Title, what it shows, unit, and for each line an expression and its legend. {} stands for the labels.
PANELS = (
    ("Step", "The newest step of each run, and where it ends.", "none", {
        "max by (run) (ray_metasr_step{})": "{{run}}",
        "max by (run) (ray_metasr_planned_steps{})": "{{run}} ends",
    }),
    ("Speed", "Steps per second, without the time for validation and checkpoints.", "none", {
        "max by (run) (ray_metasr_steps_per_second{})": "{{run}}",
        "max by (run) (ray_metasr_samples_per_second{})": "{{run}}, samples",
    }),
    ("Waiting for data", "Part of the time in which steps waited for crops: more than a little: the store is slow.",
     "percentunit", {"max by (run) (ray_metasr_data_wait_share{})": "{{run}}"}),
    ("Losses", "Means over the newest interval of steps.", "none", {
        "max by (run, loss) (ray_metasr_loss{})": "{{run}} {{loss}}",
    }),
    ("Gain over bicubic", "PSNR over that of bicubic at the newest validation, mean over the scales.", "dB", {
        "max by (run) (ray_metasr_psnr_gain_db{})": "{{run}}",
    }),
    ("Time since the last sign of progress", "A step, a validation, or a new group of workers.", "s", {
        "time() - max by (run) (ray_metasr_progress_timestamp_seconds{})": "{{run}}",
    }),
    ("Age of the newest checkpoint", "What a lost machine would cost.", "s", {
        "time() - max by (run) (ray_metasr_checkpoint_timestamp_seconds{})": "{{run}}",
    }),
    ("Checkpoints", "The newest in the store, and how many wait on a worker's disk.", "none", {
        "max by (run) (ray_metasr_checkpoint_step{})": "{{run}} step",
        "max by (run) (ray_metasr_checkpoints_waiting{})": "{{run}} waiting",
    }),
    ("Store: requests made again", "By reason, per minute.", "none", {
        "60 * sum by (run, reason) (rate(ray_metasr_retries_total{}[5m]))": "{{run}} {{reason}}",
    }),
    ("Workers and restarts", "Workers of the newest group, and groups after the first.", "none", {
        "max by (run) (ray_metasr_workers{})": "{{run}} workers",
        "sum by (run) (ray_metasr_restarts_total{})": "{{run}} restarts",
    }),
    ("MLflow", "Records that wait for MLflow, and those that it has refused.", "none", {
        "max by (run) (ray_metasr_records_waiting{})": "{{run}} waiting",
        "max by (run) (ray_metasr_records_refused{})": "{{run}} refused",
    }),
    ("Damage", "Updates left out (NaN or Inf), shards replaced, checkpoints passed over.", "none", {
        "sum by (run) (ray_metasr_skipped_updates_total{})": "{{run}} updates",
        "sum by (run) (ray_metasr_substituted_shards_total{})": "{{run}} shards",
        "sum by (run) (ray_metasr_bad_checkpoints_total{})": "{{run}} checkpoints",
    }),
    ("Drivers", "How long each has been at work, and for how long it has been gone.", "s", {
        "time() - max by (run) (ray_metasr_driver_started_timestamp_seconds{})": "{{run}} at work",
        "time() - max by (run, outcome) (ray_metasr_driver_ended_timestamp_seconds{})": "{{run}} {{outcome}}",
    }),
)  # fmt: skip
SWEEPS = (
    ("Trials", "Of each sweep, by status.", "none", {
        "max by (sweep, status) (ray_metasr_sweep_trials{})": "{{sweep}} {{status}}",
    }),
    ("Best objective", "Of each sweep so far.", "none", {
        "max by (sweep) (ray_metasr_sweep_best_objective{})": "{{sweep}}",
    }),
)  # fmt: skip


def rows() -> list[Row]:
    """Return our rows of panels."""
    runs = [_panel(FIRST_ID + 1 + place, *one, labels=RUN) for place, one in enumerate(PANELS)]
    first = FIRST_ID + len(runs) + 2
    sweeps = [_panel(first + place, *one, labels="{global_filters}") for place, one in enumerate(SWEEPS)]
    return [Row("Runs", FIRST_ID, runs), Row("Sweeps", first - 1, sweeps)]


def _panel(number: int, title: str, text: str, unit: str, lines: dict[str, str], *, labels: str) -> Panel:
    # Ray fills in {global_filters} by str.format: other braces are doubled.
    targets = [Target(expr=expr.replace("{}", "{{" + labels + "}}"), legend=legend) for expr, legend in lines.items()]
    return Panel(title, text, number, unit, targets, fill=0, stack=False)


def dashboard() -> str:
    """Return the dashboard as JSON."""
    ray_rows = [row for row in train_dashboard_config.rows if row.title not in NOT_OURS]
    config = DashboardConfig(
        name="METASR",
        default_uid="metasr",
        rows=[*rows(), *ray_rows],
        standard_global_filters=train_dashboard_config.standard_global_filters,
        base_json_file_name=train_dashboard_config.base_json_file_name,
    )
    text, _ = _generate_grafana_dashboard(config)
    board = json.loads(text) | {"title": "Meta-SRGAN"}
    for one in board["templating"]["list"]:
        if one["name"] in CHOICES:
            one["query"]["query"] = one["definition"] = f"label_values({OF_EVERY_RUN}, {CHOICES[one['name']]})"
    return json.dumps(board, indent=1) + "\n"


if __name__ == "__main__":
    if "--check" not in sys.argv:
        DASHBOARD.write_text(dashboard())
    elif DASHBOARD.read_text() != dashboard():
        sys.exit(f"{DASHBOARD} is old: python {sys.argv[0]}")
