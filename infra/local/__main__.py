"""A stack for one server, without containers: `make up`, `make down`, `make status`.

Ray with a token, MLflow with passwords on PostgreSQL, SeaweedFS as the S3 server and Prometheus, all on loopback,
as processes of whoever starts them. What the machine lacks is left out or replaced by something simpler, and said.
"""

import argparse
import fcntl
import os
import secrets
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from infra.local import copies, services, tracking
from infra.local.stack import SECRETS, Stack, StackError, default_folder, load, load_or_make

VERBS = {
    "up": "start what does not run",
    "down": "stop it; what it keeps stays",
    "restart": "stop and start",
    "status": "how each service is; exit code 1 unless all are well",
    "rotate": "new passwords, keys and token, and a restart of all",
    "backup": "copy databases and buckets into a new folder",
    "restore": "make a new stack from such a copy",
}


def main() -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.local",
        description=__doc__,
        epilog="\n".join(f"{verb:<9}{about}" for verb, about in VERBS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("names", nargs="*", help=f"services ({', '.join(services.SERVICES)}; all); a copy's folder")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="of the stack (%(default)s)")
    parser.add_argument("--any-ports", action="store_true", help="a new stack takes free ports, not the usual ones")
    options = parser.parse_args()
    options.folder = options.folder.expanduser().absolute()
    os.umask(0o077)
    try:
        return _do(options)
    except StackError as error:
        print(error, file=sys.stderr)
        return 2


def _do(options: argparse.Namespace) -> int:
    if options.verb == "status":
        return 0 if services.status(load(options.folder), _say) else 1
    if options.verb in ("backup", "restore"):
        return _copy(options)
    for name in options.names:
        if name not in services.SERVICES:
            raise StackError(f"there is no service {name}: {', '.join(services.SERVICES)}")
    names = options.names or list(services.SERVICES)
    is_up = options.verb == "up"
    stack = load_or_make(options.folder, _say, any_ports=options.any_ports) if is_up else load(options.folder)
    with _alone(stack):
        if options.verb == "rotate":
            stack, names = _rotate(stack), list(services.SERVICES)
        if options.verb in ("down", "restart", "rotate"):
            services.down(stack, names, _say)
        if options.verb != "down":
            services.up(stack, names, _say)
            _say(f"\nIn the shell that uses it: . {shlex.quote(str(stack.folder / 'env'))}")
    return 0


def _copy(options: argparse.Namespace) -> int:
    if len(options.names) != 1:
        raise StackError(f"{options.verb} takes the folder of the copy")
    folder = Path(options.names[0]).expanduser().absolute()
    if options.verb == "backup":
        copies.backup(load(options.folder), folder, _say)
        _say(f"{folder} holds all of it, with its secrets")
    else:
        copies.restore(folder, options.folder, _say, any_ports=options.any_ports)
        _say("`up` starts the rest")
    return 0


def _rotate(stack: Stack) -> Stack:
    """Return the stack with new secrets; MLflow, which keeps its own, is told."""
    services.up(stack, ["storage", "database", "mlflow"], _say)
    new = replace(stack, secrets={name: secrets.token_hex(20) for name in SECRETS})
    tracking.change_passwords(stack, new)
    new.save()
    return new


@contextmanager
def _alone(stack: Stack) -> Iterator[None]:
    """Keep a second command on the same stack waiting."""
    with (stack.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
