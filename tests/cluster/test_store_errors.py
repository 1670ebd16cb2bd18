"""What a store says when it cannot work: what failed, why, and what to do, without secrets."""

import errno
import os
import shutil
import ssl
import subprocess
import sys
import threading
import traceback
import uuid
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cluster.store import RetryPolicy, UnavailableError, open_store
from metasr.errors import StoreError
from tests.cluster.fault_proxy import Answer, FaultProxy, always
from tests.patience import is_quick

KEY = "train/000001.tar"
TWICE = RetryPolicy(attempts=2, first_pause_s=0.01)


def uses(store):
    return {
        "put": lambda: store.put(KEY, b"x"),
        "put_new": lambda: store.put_new(KEY, b"x"),
        "get": lambda: store.get(KEY),
        "get_range": lambda: store.get_range(KEY, 0, 1),
        "exists": lambda: store.exists(KEY),
        "stat": lambda: store.stat(KEY),
        "delete": lambda: store.delete(KEY),
        "require": store.require,
    }


# Credentials


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials_are_refused_and_not_shown(s3_url, monkeypatch, name):
    right = os.environ["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setenv(name, "hush-wrong-value")
    store = open_store(s3_url)
    for use in uses(store).values():
        with pytest.raises(StoreError, match="credentials are wrong") as caught:
            use()
        said = "".join(traceback.format_exception(caught.value))
        assert "hush" not in said
        assert right not in said
    assert not store.retries.counts


def test_a_wrong_secret_is_told_from_a_wrong_key(s3_url, monkeypatch):
    with monkeypatch.context() as environment:
        environment.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(StoreError, match="the secret does not belong to the access key"):
            open_store(s3_url).get(KEY)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    with pytest.raises(StoreError, match="does not know this access key"):
        open_store(s3_url).get(KEY)


def test_missing_credentials_are_named(s3_url, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    with pytest.raises(StoreError, match="no credentials were found"):
        open_store(s3_url).get(KEY)


SKEWED = b"<Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message></Error>"
LAST_YEAR = {"Date": format_datetime(datetime.now(UTC) - timedelta(days=365), usegmt=True)}


@pytest.mark.parametrize(
    ("answer", "why", "fix"),
    [
        (Answer(403, b"<Error><Code>AccessDenied</Code></Error>"), "do not allow it", "right to it"),
        (Answer(403, SKEWED), "clocks of this machine and of the server differ", "NTP"),
        (Answer(403, b"", LAST_YEAR), "clocks of this machine and of the server differ", "NTP"),
        (Answer(403), "wrong or do not allow it", "AWS_ACCESS_KEY_ID"),
        (Answer(400, b"<Error><Code>ExpiredToken</Code></Error>"), "have expired", "Renew"),
        (
            Answer(301, b"<Error><Code>PermanentRedirect</Code></Error>"),
            "sends requests for it elsewhere",
            "AWS_REGION",
        ),
        (Answer(400, b"<Error><Code>Strange</Code></Error>"), "answered Strange", "manual"),
    ],
)
def test_a_refusal_says_why_at_once(s3_url, monkeypatch, answer, why, fix):
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], always(answer)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = open_store(s3_url)
        with pytest.raises(StoreError, match=why) as caught:
            store.get(KEY)
    assert fix in caught.value.fix
    assert not store.retries.counts


def test_credentials_that_have_expired_are_named_also_where_the_answer_has_no_body(s3_url, monkeypatch):
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], always(Answer(400))) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(StoreError, match="have expired"):
            open_store(s3_url).require()


# Connections


def test_a_server_that_does_not_answer_is_named_soon(s3_url, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hush@127.0.0.1:9")
    for use in uses(open_store(s3_url, TWICE)).values():

        def fail(use=use):
            with pytest.raises(
                UnavailableError, match=r"no connection to 127\.0\.0\.1:9, .*Check AWS_ENDPOINT_URL"
            ) as caught:
                use()
            assert "hush" not in "".join(traceback.format_exception(caught.value))

        assert is_quick(fail, 8)


def test_an_endpoint_that_is_no_url_is_named(s3_url, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9")
    with pytest.raises(StoreError, match="Check the AWS_"):
        open_store(s3_url).require()


def certificate(folder, host):
    """Write a certificate of one's own for a host, and its key, into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "pem").write_bytes(built.public_bytes(pem[0]) + key.private_bytes(*pem))
    return folder / "pem"


@pytest.mark.parametrize(
    ("host", "trusted", "why"),
    [
        ("localhost", False, "not from an authority that this machine trusts"),
        ("elsewhere.example", True, "is for another host"),
        (None, False, "does not speak TLS"),
    ],
)
def test_tls_that_fails_is_explained(s3_url, tmp_path, monkeypatch, host, trusted, why):
    class Quiet(HTTPServer):
        def handle_error(self, *_):
            pass

    server = Quiet(("127.0.0.1", 0), BaseHTTPRequestHandler)
    if host:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem := certificate(tmp_path, host))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    if trusted:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(pem))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{server.server_port}")
    store = open_store(s3_url, TWICE)
    try:
        with pytest.raises(StoreError, match=f"localhost:{server.server_port} .*{why}|{why}") as caught:
            store.get(KEY)
    finally:
        server.shutdown()
        server.server_close()
    assert caught.value.fix
    assert not store.retries.counts


# Folders


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some space"),
        (errno.EACCES, "the right to it"),
        (errno.EROFS, "Mount it for writing"),
        (errno.EIO, "Check the folder"),
    ],
)
def test_a_file_system_that_refuses_is_explained(tmp_path, monkeypatch, number, fix):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    store = open_store(str(tmp_path))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=os.strerror(number)) as caught:
        store.put(KEY, b"x")
    assert fix in caught.value.fix
    assert list((tmp_path / "train").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "why"), [("size=64k", "No space left on device"), ("ro", "Read-only file system")]
)
def test_a_real_file_system_that_takes_nothing_is_explained(tmp_path, options, why):
    """In a name space of its own, where anyone may mount."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("needs name spaces that a user can make")
    code = (
        "import sys, os; from cluster.store import open_store\n"
        "try: open_store(sys.argv[1]).put('key', bytes(1 << 20))\n"
        "except Exception as error: print(type(error).__name__, error, os.listdir(sys.argv[1]))"
    )
    script = f'mount -t tmpfs -o {options} tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = [*namespace, "sh", "-c", script, "sh", str(tmp_path), sys.executable, code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert f"StoreError cannot write 'key' to {tmp_path.as_uri()}: {why}" in said.stdout, said.stderr
    assert said.stdout.rstrip().endswith("[]")


def test_secrets_are_not_in_the_url_of_a_store(s3_url):
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in repr(open_store(f"{s3_url}/{uuid.uuid4().hex}").__reduce__())
