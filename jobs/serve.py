"""metasr serve: a model for a team, on Ray Serve."""

import argparse
import os
import signal
import threading
from collections.abc import Sequence

from cluster.config import UpscaleConfig
from jobs.cli import Parser, add_settings, run, say, settings
from metasr.errors import ConfigError

TOKEN = "METASR_SERVE_TOKEN"
FEWEST = 16
PORT = 8000
VIEW = "/view"
FEATURES_BYTES = 256 * 2**20
DESCRIPTION = f"""Serve a model to a team, on the Ray of RAY_ADDRESS or one of this machine, until Ctrl-C.

The model is the champion, or what --model names. Where its alias moves, the new version is loaded, and requests under
way end with the old one. A registry that is away changes nothing. Requests must bring the secret in {TOKEN}.

  export {TOKEN}=$(openssl rand -hex 32)
  metasr serve
  metasr serve --model 3 --port 9000
  ray job submit --working-dir . -- python jobs/serve.py --replicas 4
  curl -H "Authorization: Bearer ${TOKEN}" --data-binary @in.nii.gz -o out.nii.gz \\
      "http://127.0.0.1:8000/upscale?scale=2.5"

A page to zoom, as that of `metasr view`, is at /view/: who has the secret sends a volume there and gets an address of
its own, which shows it to all who have that, until nobody has looked for --view-minutes. Volumes are in the memory of
one process, at most --view-volumes and --view-mb of them; with 0 volumes there is no page. From elsewhere than this
machine it answers under the names of --allowed-host alone.

POST /upscale takes a NIfTI volume and returns one; ?scale=, ?spacing=, ?plane=, ?ensemble and ?labels are as in
`metasr upscale`, and the header X-Metasr has what is in the JSON file beside its results. GET /model says which model
it is, GET /health (without the secret) that it answers. It speaks HTTP: to be reached from elsewhere it wants a proxy
with TLS in front of it, or `ssh -L`. Research software, not a medical device."""


def main(arguments: Sequence[str]) -> None:
    """Serve a model until a signal."""
    known = _parser().parse_known(arguments)
    config = settings(UpscaleConfig, known).config
    token = os.environ.get(TOKEN, "")
    if len(token) < FEWEST:
        reason = f"requests must bring a secret of {FEWEST} characters or more"
        raise ConfigError(f"{TOKEN} is not set", reason, f"export {TOKEN}=$(openssl rand -hex 32)")
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())

    from cluster.runtime.connection import connected
    from cluster.runtime.ordered_map import Needs
    from cluster.serving.current import Followed
    from cluster.serving.deploy import Serving, digest_of, serve
    from cluster.serving.viewer import Viewing
    from metasr.viewer.session import Limits

    followed, digest = Followed(known.model or "", config.tracking), digest_of(token)
    max_bytes = round(known.max_mb * 1e6)
    needs = Needs(config.tasks.cpus, config.tasks.gpus if known.gpu else 0.0)
    serving = Serving(followed, digest, max_bytes, known.replicas, needs)
    viewing = None
    if known.view_volumes:
        limits = Limits(known.view_volumes, round(known.view_mb * 1e6), FEATURES_BYTES, 60 * known.view_minutes)
        viewing = Viewing(followed, digest, VIEW, tuple(known.allowed_host), limits, max_bytes)
    cpus = (known.replicas + bool(viewing)) * config.tasks.cpus + 1
    address = f"http://{known.host}:{known.port}"
    with connected(cpus), serve(serving, viewing, known.host, known.port):
        say(f"{address}/upscale answers those who have the secret; Ctrl-C ends it")
        if viewing:
            say(f"{address}{VIEW}/ is the page to zoom")
        ended.wait()
    say("ended")


def _parser() -> Parser:
    parser = Parser(prog="metasr serve", description=DESCRIPTION)
    parser.add_argument("--model", help="alias, version, bundle or run [champion; else the model that ships]")
    parser.add_argument("--host", default="127.0.0.1", help="address that the head listens at [127.0.0.1]")
    parser.add_argument("--port", type=int, default=PORT, help=f"port there [{PORT}]")
    parser.add_argument("--replicas", type=_positive, default=1, metavar="N", help="volumes at a time [1]")
    parser.add_argument("--max-mb", type=float, default=512, metavar="MB", help="largest volume, unpacked [512]")
    parser.add_argument("--view-volumes", type=_count, default=8, metavar="N", help="open on the page at a time [8]")
    parser.add_argument("--view-mb", type=float, default=8000, metavar="MB", help="memory for them [8000]")
    parser.add_argument("--view-minutes", type=float, default=60, metavar="T", help="closed when unused so long [60]")
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name that the page may be asked for under",
    )
    parser.add_argument("--gpu", action="store_true", help="give each replica tasks.gpus of a GPU")
    add_settings(parser, UpscaleConfig)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


if __name__ == "__main__":
    run(main)
