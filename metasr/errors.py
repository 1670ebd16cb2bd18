"""The project's exceptions: what happened, why, and what to do about it."""

import signal


class MetaSRError(Exception):
    """A problem that the user can solve.

    Jobs print it as one line, without a traceback, and exit with `exit_code`.

    Args:
        what: What happened, and to which file, setting or run.
        why: The cause, if known.
        fix: What to do next, in the imperative.
    """

    exit_code = 2

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what, why, fix)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        message = f"{self.what}: {self.why}" if self.why else self.what
        end = "" if message.endswith(("?", ".")) else "."
        return f"{message}{end} {self.fix}" if self.fix else message


class ConfigError(MetaSRError):
    """A recipe, a flag or a combination of settings that cannot be used."""


class DataError(MetaSRError):
    """A volume, a folder or a set of shards that cannot be used."""


class UnreachableError(DataError):
    """A file that cannot be reached, so its content is unknown."""


class ScaleError(MetaSRError):
    """A scale or an output size that super-resolution does not support."""


class StoreError(MetaSRError):
    """Object storage that is unavailable, refuses a request, or returns different bytes than were stored."""


class CheckpointError(MetaSRError):
    """A checkpoint or a bundle whose files are missing or do not match their manifest."""


class FormatError(MetaSRError):
    """A file in a format of a later version of metasr, which this one cannot read."""


class TrainingError(MetaSRError):
    """Training that cannot continue."""

    exit_code = 1


class DivergedError(TrainingError):
    """A loss or gradient that is NaN or infinite, detected before it reached the weights."""


class RegistryError(MetaSRError):
    """A model version that does not exist, or that the promotion gate rejects."""


class Interrupted(KeyboardInterrupt):
    """A signal that ends the program where it is.

    Args:
        number: Of the signal.

    Attributes:
        exit_code: Of the program.
        name: Of the signal.
    """

    def __init__(self, number: int) -> None:
        self.name, self.exit_code = signal.Signals(number).name, 128 + number
        super().__init__(f"stopped by {self.name}")
