"""Patients named by the user, where file names do not tell them: by a regular expression or a table."""

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from metasr.data.files import shown
from metasr.errors import ConfigError, DataError

NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
KEYS = ("file", "subject")


@dataclass(frozen=True)
class GivenPatients:
    """The user's rule for the patient of a file.

    Attributes:
        source: The option and its value, for messages.
        find: Takes the path of a file below its folder and the names of its subject; returns the patient or "".
    """

    source: str
    find: Callable[[str, Sequence[str]], str]


def patients_by_regex(pattern: str) -> GivenPatients:
    """Return the rule of a regular expression: its first group that matches in the path, else the whole match.

    Raises:
        ConfigError: It is not a regular expression.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"patient-regex {pattern}", str(error), "Give a regular expression of Python") from error

    def find(path: str, _: Sequence[str]) -> str:
        match = regex.search(path)
        return next(filter(None, match.groups()), match[0]) if match else ""

    return GivenPatients(f"patient-regex {pattern}", find)


def patients_by_table(file: Path) -> GivenPatients:
    """Return the rule of a CSV file with a column `patient` and a column `file` or `subject`.

    `file` is a path below the folder or the name of a file, with or without suffix.

    Raises:
        DataError: It cannot be read, lacks a value, or gives a file two patients.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = _rows(lines)
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"patients {file}", f"it cannot be read ({reason})", "Give a CSV file in UTF-8") from error
    if not rows:
        raise DataError(f"patients {file}", "it has no lines", "Give a header and a line for each file")
    table: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        keys = [NIFTI.sub("", row[key].removeprefix("./")) for key in KEYS if row.get(key)]
        if not keys or not row.get("patient"):
            raise DataError(
                f"patients {file}",
                f"line {number} has no patient, or neither file nor subject",
                "Give the columns `file` or `subject`, and `patient`, and fill them",
            )
        for key in keys:
            if table.setdefault(key, row["patient"]) != row["patient"]:
                reason = f"it gives {key} two patients, {table[key]} and {row['patient']}"
                raise DataError(f"patients {file}", reason, "Remove one of the lines")

    def find(path: str, names: Sequence[str]) -> str:
        below = NIFTI.sub("", path)
        keys = (below, below.rpartition("/")[2], *names)
        return next((table[key] for key in keys if key in table), "")

    return GivenPatients(f"patients {shown(str(file))}", find)


def _rows(lines: TextIO) -> list[dict[str, str]]:
    """Return rows by column name; the separator is a comma, semicolon or tab."""
    header = lines.readline()
    lines.seek(0)
    rows = csv.DictReader(lines, delimiter=max(",;\t", key=header.count))
    return [{str(key).strip().lower(): str(value or "").strip() for key, value in row.items()} for row in rows]
