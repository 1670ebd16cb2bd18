"""JSON for scripts: alone on stdout, while everything else that a job or its libraries print goes to stderr."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def json_output(is_wanted: bool) -> Iterator[Callable[[object], None]]:
    """Send all that is printed to stderr if JSON is wanted, and yield a function that prints it to stdout.

    Also what other libraries and processes print: file descriptor 1 itself is redirected.
    """
    stdout = sys.stdout

    def show(content: object) -> None:
        print(json.dumps(content, indent=1), file=stdout)

    if not is_wanted:
        yield show
        return
    stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    contents: list[object] = []
    try:
        with redirect_stdout(sys.stderr):
            yield contents.append
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    for content in contents:
        show(content)
