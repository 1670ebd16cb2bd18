"""metasr promote: what a person sees of it."""

import sys

import pytest

from cluster.registry import CHAMPION, Registry
from jobs.cli import main
from tests.cluster.registered import record, scores, two_versions


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """A database with two evaluated versions; the second is better."""
    folder = tmp_path_factory.mktemp("registry")
    config, registry = two_versions(folder)
    for step in (1, 2):
        record(registry, str(step), scores({"2": step}, step / 100), folder / f"results-{step}")
    return config


@pytest.fixture
def promote(tracking, monkeypatch, capfd):
    def call(*arguments):
        # A flag that is given again counts.
        monkeypatch.setattr(
            sys, "argv", ["metasr", "promote", f"--tracking.uri={tracking.uri}", "--gate.scales=2", *arguments]
        )
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capfd.readouterr()

    return call


def champion(tracking):
    return str(Registry(tracking).version(CHAMPION).version)


def test_from_the_first_champion_to_the_next_and_back(promote, tracking):
    assert promote("--history")[:2] == (0, "meta-srgan has had no champion\n")

    code, out, _ = promote("--model", "1")
    assert code == 0
    assert "passed  PSNR nowhere below bicubic: least at scale 2, +1.000 dB" in out
    assert "version 1 of meta-srgan is the champion, the first" in out
    assert out.endswith(f"-o out.nii.gz --scale 2.5 --tracking.uri {tracking.uri}\n")

    code, out, _ = promote()
    assert code == 0
    assert "against version 1, the champion:\nscale" in out
    assert "passed  SSIM better than the champion on average: +0.01000, a mean of 2 patients" in out
    assert "version 2 of meta-srgan is the champion, instead of version 1\n" in out

    code, out, err = promote("--model", "1")
    assert code == 2
    assert "FAILED  PSNR nowhere more than 0.05 dB below the champion: least at scale 2, -1.000 dB" in out
    assert err.startswith("error: version 1 is not promoted: not PSNR nowhere more than 0.05 dB below the champion")
    assert champion(tracking) == "2"

    code, out, _ = promote("--model", "1", "--force", "a trial")
    assert (code, champion(tracking)) == (0, "1")
    assert "version 1 of meta-srgan is the champion, instead of version 2, against the gate: a trial\n" in out

    code, out, _ = promote("--rollback")
    assert (code, champion(tracking)) == (0, "2")
    assert "version 2 of meta-srgan is the champion, instead of version 1" in out

    code, out, _ = promote("--history")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["1", "2", "3", "4"]
    assert "forced: a trial" in out.splitlines()[2]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--force", ""], "--force without a reason"),
        (["--force", " ", "--model", "1"], "--force without a reason"),
        (["--history", "--rollback"], "not allowed with argument"),
        (["--rollback", "--model", "1"], "not allowed with argument"),
        (["--rollback", "--force", "because"], "it is only for promotions"),
        (["--gate.psnr-margin-db", "-1"], "gate.psnr_margin_db"),
    ],
)
def test_what_makes_no_sense_is_one_line(promote, arguments, reason):
    code, out, err = promote(*arguments)
    assert (code, out) == (2, "")
    assert reason in err
    assert len(err.splitlines()) == 1


def test_a_server_that_is_away_is_one_line(promote):
    code, out, err = promote("--tracking.uri=http://127.0.0.1:9")
    assert (code, out) == (2, "")
    assert "MLflow at http://127.0.0.1:9" in err
    assert len(err.splitlines()) == 1
