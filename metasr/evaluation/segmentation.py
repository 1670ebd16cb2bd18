"""A user's segmentation command, run on HR and SR volumes."""

import os
import shlex
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metasr.data.stack import save_slices
from metasr.data.volume import load_volume
from metasr.errors import ConfigError, DataError
from metasr.evaluation.downstream import Grid, Images, Labeller, Labels, StepName

INPUT, OUTPUT = "{input}", "{output}"
MAX_SHOWN = 300
FIX = "Try the command on one of your volumes"


@dataclass(frozen=True)
class Command:
    """A command that reads a volume and writes its labels, both NIfTI: 0 is background, other integers are classes.

    Its input is the stack of a subject's slices in the data set, with intensities in about [0, 1]. It runs without a
    shell.

    Attributes:
        command: Command line with {input} and {output} as placeholders for file names.
        timeout_s: Time limit for a volume, in seconds.

    Raises:
        ConfigError: It cannot be split into words, or lacks a placeholder.
    """

    command: str
    timeout_s: float = 600.0
    name: StepName = "command"
    all_slices: bool = True
    has_distances: bool = True

    def __post_init__(self) -> None:
        words = self._words()
        for place in (INPUT, OUTPUT):
            if not any(place in word for word in words):
                raise ConfigError("--downstream-command", f"it has no {place}", "Write it where the file name goes")

    def labeller(self, subject: str, hr: Images, grid: Grid) -> Labeller:
        """Return a labeller that runs the command; `hr` is not used."""

        def label(images: Images, brain: NDArray[np.bool_]) -> Labels:
            with tempfile.TemporaryDirectory(prefix="metasr-") as folder:
                image, labels = Path(folder, "image.nii.gz"), Path(folder, "labels.nii.gz")
                save_slices(image, images, grid.spacing)
                self._run(subject, image, labels)
                return _labels(subject, labels, images.shape)

        return label

    def class_name(self, label: int) -> str:
        """Return the number of the class."""
        return str(label)

    def _words(self) -> list[str]:
        try:
            return shlex.split(self.command)
        except ValueError as error:
            raise ConfigError("--downstream-command", str(error), "Close the quotes") from None

    def _run(self, subject: str, image: Path, labels: Path) -> None:
        words = [word.replace(INPUT, str(image)).replace(OUTPUT, str(labels)) for word in self._words()]
        what = f"subject {subject}: {words[0]}"
        with tempfile.TemporaryFile() as said:  # a file, as the output may be large
            try:
                process = subprocess.Popen(
                    words,
                    cwd=image.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    start_new_session=True,
                )
            except OSError as error:
                raise DataError(what, f"it does not start ({error.strerror})", "Install it on all nodes") from None
            try:
                code = process.wait(self.timeout_s)
            except subprocess.TimeoutExpired:
                reason = f"not done with a volume after {self.timeout_s:g} s"
                raise DataError(what, reason, "Raise --downstream.timeout-s") from None
            finally:
                _end(process)
            if code:
                said.seek(max(0, said.seek(0, os.SEEK_END) - MAX_SHOWN))
                tail = " ".join(said.read().decode(errors="replace").split())
                raise DataError(what, f"exit code {code}, stderr: {ascii(tail)[1:-1] or 'empty'}", FIX)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the program and its child processes, if it is still running."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _labels(subject: str, path: Path, shape: tuple[int, ...]) -> Labels:
    """Read the labels that the command wrote, `[S, H, W]`."""
    what = f"subject {subject}: the labels that the command wrote"
    if not path.is_file():
        raise DataError(what, "there are none at {output}", FIX)
    found: NDArray[np.float64] = load_volume(path).slices()
    if found.shape != shape:
        raise DataError(what, f"their shape is {found.shape}, not {shape} (slices, rows, columns)", FIX)
    if (found < 0).any() or (found != np.rint(found)).any():
        raise DataError(what, "they are not integers from 0 on", FIX)
    return found.astype(np.int64)
