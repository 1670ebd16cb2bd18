"""The start of a training, up to Ray: a store that has answered once is waited for when it is away."""

import os
import uuid
from functools import partial

import pytest

from cluster.checkpoints import RunCheckpoints
from cluster.checkpoints.ledger import REGISTERED
from cluster.config import JobConfig
from cluster.preflight import services
from cluster.recipes import Layer, resolve
from cluster.registry import Registry
from cluster.store import RetryPolicy, UnavailableError, open_store, url
from cluster.stream import read_index
from cluster.training.driver import Trained, train
from cluster.training.identify import RunSpec, identify
from cluster.training.registration import Sent
from metasr.errors import StoreError
from tests.cluster.fault_proxy import Answer, FaultProxy, Refuse, Stall, always, outages
from tests.cluster.tracked import start

QUICK = {"attempts": 3, "first_pause_s": 0.01, "max_pause_s": 0.05}
MOMENTS = ("/doctor/", "/lease.json", "/checkpoints.json")  # in which a training first asks for them with GET


@pytest.fixture
def quick(monkeypatch):
    """Stores that try again at once."""
    monkeypatch.setattr(url, "RetryPolicy", partial(RetryPolicy, **QUICK))
    monkeypatch.setattr(services, "PATIENCE", RetryPolicy(**QUICK, stall_s=0.5, deadline_s=1))


@pytest.fixture
def spec(s3_url, original, config, bundles, tmp_path, quick):
    """A run in a bucket that is finished and registered: it needs no Ray."""
    place = f"{s3_url}/{uuid.uuid4().hex}"
    data = open_store(f"{place}/data")
    shards = (shard.name for shard in read_index(open_store(str(original))).shards)
    for name in ("index.json", *shards):
        data.put(name, (original / name).read_bytes())
    values = {f"tracking.{name}": value for name, value in config.model_dump().items()}
    values |= {"data.url": data.url, "storage.url": f"{place}/runs", "tracking.spool": str(tmp_path / "records")}
    spec = RunSpec(resolve(JobConfig, [Layer("test", {**values, "loss.perceptual": 0})]), "tiny")
    name = identify(spec).run_name
    Registry(config).register(bundles[0], start(config, name))
    checkpoints = RunCheckpoints(open_store(spec.config.storage.url), name).claim(0)
    checkpoints.finish({"step": "7", REGISTERED: config.model})
    return spec


def started(spec, plan, monkeypatch):
    """Start the run behind a proxy; return what comes of it, and what was told of the store."""
    told = []
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], plan) as proxy, monkeypatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", proxy.url)
        trained = train(spec, told.append)
    return trained, [line for line in told if "waiting for the store" in line or "is back" in line]


@pytest.mark.parametrize("fault", [Answer(503), Answer(503, b"<Error><Code>SlowDown</Code></Error>"), Refuse()])
def test_a_store_that_goes_away_after_its_first_answer_is_waited_for_at_each_step(spec, monkeypatch, fault):
    trained, told = started(spec, outages(*MOMENTS, fault=fault, method="GET", requests=7), monkeypatch)
    assert trained == Trained(identify(spec).run_name, 7, already_done=True, sent=Sent(version="1"))
    for moment in MOMENTS:
        assert sum(moment.split("/")[1] in line for line in told) == 1, told
    assert sum("is back" in line for line in told) == len(MOMENTS)


def test_a_store_that_stalls_in_the_checks_is_waited_for(spec, monkeypatch):
    trained, told = started(spec, outages("/doctor/", fault=Stall(0), method="GET", requests=4), monkeypatch)
    assert trained.already_done
    assert "check storage" in told[0]


def test_a_store_that_never_answered_ends_the_command(spec, monkeypatch):
    with pytest.raises(UnavailableError, match="no connection"):
        started(spec, always(Refuse()), monkeypatch)


def test_a_store_that_refuses_is_not_waited_for(spec, monkeypatch):
    denied = Answer(403, b"<Error><Code>AccessDenied</Code></Error>")
    with pytest.raises(StoreError, match="do not allow"):
        started(spec, outages("/lease.json", fault=denied, method="GET", requests=1), monkeypatch)
