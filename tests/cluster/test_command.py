"""The commands that are told as what to do next: they lead to the same registry and stores."""

import shlex

import pytest

from cluster.command import command
from cluster.config import JobConfig, StorageConfig, TrackingConfig
from jobs.cli import Parser, add_settings, settings
from metasr.config import DataConfig


def test_a_command_on_default_places_is_as_short_as_can_be():
    assert command("evaluate", tracking=TrackingConfig()) == "metasr evaluate"
    assert command("train", data=DataConfig(), storage=StorageConfig()) == "metasr train"


@pytest.mark.parametrize("verb", ["evaluate", "promote", "upscale", "train"])
def test_a_command_goes_to_the_registry_of_the_one_before(verb):
    tracking = TrackingConfig(uri="sqlite:////data/my models/mlflow.db", model="edsr-x2", experiment="e")
    said = command(verb, "--model", "a b", tracking=tracking)
    program, spoken, *arguments = shlex.split(said)
    assert (program, spoken, arguments[:2]) == ("metasr", verb, ["--model", "a b"])
    parser = Parser(prog="metasr")
    parser.add_argument("--model")
    add_settings(parser, JobConfig)
    found = settings(JobConfig, parser.parse_known(arguments)).config.tracking
    assert (found.uri, found.model) == (tracking.uri, tracking.model)
    assert "experiment" not in said


def test_a_command_has_no_password():
    said = command("promote", tracking=TrackingConfig(uri="http://anna:hunter22@mlflow:5000"))
    assert said == "metasr promote --tracking.uri http://mlflow:5000"


def test_records_are_sent_from_the_place_where_they_wait():
    assert command("sync", tracking=TrackingConfig(spool="/data/waiting", uri="http://mlflow:5000")) == (
        "metasr sync --tracking.spool /data/waiting"
    )
