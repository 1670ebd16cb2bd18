"""What a request asks for, and its answer: a NIfTI file in, a NIfTI file out, with limits."""

import gzip
import io
import json
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from metasr.data.inputs import Input
from metasr.errors import ConfigError, DataError
from metasr.inference.files import Told, upscale_file
from metasr.inference.plan import ModelInUse, Options, Task
from metasr.inference.request import Request
from metasr.viewer.upload import GZIP, TooLargeError

ASKED = frozenset({"scale", "spacing", "plane", "ensemble", "labels"})
CHUNK = 2**20


class Made(NamedTuple):
    """A result: the bytes of a .nii.gz file, and its description as JSON in ASCII."""

    volume: bytes
    description: str


def options_of(query: Mapping[str, str]) -> Options:
    """Return what the query of a request asks for, as the flags of `metasr upscale` do.

    Raises:
        ConfigError: It asks for something else, or for what cannot be.
    """
    if unknown := set(query) - ASKED:
        raise ConfigError(f"?{min(unknown)}", "there is no such parameter", f"These are: {', '.join(sorted(ASKED))}")
    plane = query.get("plane")
    if plane not in (None, "axial", "coronal", "sagittal"):
        raise ConfigError(f"?plane={plane}", "it is no plane", "Give axial, coronal or sagittal")
    request = Request.of(_numbers(query, "scale"), _numbers(query, "spacing"), None, plane)  # type: ignore[arg-type]
    return Options(request, labels=_flag(query, "labels"), ensemble=bool(_flag(query, "ensemble")))


def upscale_bytes(body: bytes, options: Options, used: ModelInUse, max_bytes: int) -> Made:
    """Super-resolve the bytes of a NIfTI file, compressed or not.

    Args:
        body: Of a request.
        options: What is done.
        used: The model.
        max_bytes: Of the volume, when it is not compressed.

    Raises:
        TooLargeError: The volume has more.
        MetaSRError: It cannot be read, or not be enlarged so.
    """
    with tempfile.TemporaryDirectory(prefix="metasr-") as name:
        source, result = Path(name, "volume.nii"), Path(name, "out", "volume.nii.gz")
        source.write_bytes(_plain(body, max_bytes))
        task = Task(Input(source, "volume", Path(source.name)), result)
        try:
            description = upscale_file(task, options, lambda: used, Told(lambda line: None, lambda done, total: None))
        except DataError as error:  # without the path of our own
            raise DataError("the volume", error.why or error.what, error.fix) from None
        return Made(result.read_bytes(), json.dumps(description))


def _plain(body: bytes, max_bytes: int) -> bytes:
    """Return a body that is not compressed; a short one cannot become endless."""
    if not body.startswith(GZIP):
        return body
    plain = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            while chunk := file.read(CHUNK):
                plain += chunk
                if len(plain) > max_bytes:
                    raise TooLargeError("the volume", f"it has more than {max_bytes / 1e6:g} MB", "Cut it in parts")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("the volume", f"it is no whole gzip file ({error})", "Send it again") from None
    return bytes(plain)


def _numbers(query: Mapping[str, str], name: str) -> tuple[float, ...] | None:
    if name not in query:
        return None
    try:
        return tuple(float(part) for part in query[name].lower().split("x"))
    except ValueError:
        raise ConfigError(f"?{name}={query[name]}", "it is no number", "Give one such as 2.5, or 2x3") from None


def _flag(query: Mapping[str, str], name: str) -> bool | None:
    return query[name].lower() in ("", "1", "true", "yes") if name in query else None
