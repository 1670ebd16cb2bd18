"""Ray that cannot be joined is one line."""

import pytest
import ray

from cluster.runtime.connection import connected
from metasr.errors import ConfigError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError(), "ConnectionError"),
        (ConnectionError("\n"), "ConnectionError"),
        (RuntimeError("no head at redis://ray:hush@head:6379\nand more"), "no head at redis://head:6379"),
    ],
    ids=["no message", "an empty line", "several lines"],
)
def test_a_cluster_that_cannot_be_joined_is_one_line_with_a_reason_and_no_secret(monkeypatch, error, reason):
    def refuse(**_):
        raise error

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConfigError) as caught, connected(cpus=1):
        pass
    assert str(caught.value) == f"Ray at auto: {reason}. Check RAY_ADDRESS, or unset it to use this machine"
