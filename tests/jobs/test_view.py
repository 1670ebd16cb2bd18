"""`metasr view` as a command: what keeps it from starting, and how it ends. tests/browser looks at its page."""

import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request

import pytest

from tests.jobs.command import METASR, assert_one_error


@pytest.mark.parametrize(
    ("source", "why"), [("missing.nii.gz", "no such file"), ("text.nii.gz", "not"), ("text", "folder")]
)
def test_a_file_that_is_no_volume_is_one_line(metasr, places, source, why):
    outcome = metasr("view", places / source, "--no-open")
    assert_one_error(outcome)
    assert why in outcome.err
    assert "http" not in outcome.out


def test_a_model_that_is_none_ends_it_with_one_line(metasr, places):
    outcome = metasr("view", places / "volume.nii.gz", "--model", places / "empty", "--no-open", "--port", 0)
    assert_one_error(outcome)


def test_it_answers_at_the_address_that_it_prints_until_ctrl_c(places, home):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        command = [METASR, "view", places / "volume.nii.gz", "--model", places / "bundle", "--no-open"]
        with subprocess.Popen(
            [*command, "--port", str(taken)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"HOME": str(home)},
        ) as server:
            assert server.stdout.readline().startswith(f"port {taken} is taken: using ")
            address = server.stdout.readline().strip()
            with urllib.request.urlopen(address) as page:
                assert b"<title>metasr view</title>" in page.read()
            with pytest.raises(urllib.error.HTTPError, match="403") as refused:
                urllib.request.urlopen(address.rsplit("/", 2)[0])
            refused.value.close()
            server.send_signal(signal.SIGINT)
            out, err = server.communicate()
    assert (server.returncode, err) == (0, "")
    assert out.endswith("ended\n")
