"""Patients that a person gives, because names of files do not say them: a regular expression, or a table."""

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
    """Who the patient of a file is, as a person says it.

    Attributes:
        source: What the person gave, for a message.
        find: From the path of a file below its folder, and the names of its subject, to the patient; "" if not given.
    """

    source: str
    find: Callable[[str, Sequence[str]], str]


def patients_by_regex(pattern: str) -> GivenPatients:
    """Return patients that a regular expression finds in paths: its first group that matches, or the whole match.

    Raises:
        ConfigError: It is no regular expression.
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
    """Return the patients of a CSV file with a column `patient` and a column `file` or `subject`.

    A file is given by its path below the folder or its name, with the ending or without.

    Raises:
        DataError: It cannot be read, lacks a column, or gives a file two patients.
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
                raise DataError(f"patients {file}", reason, "Leave one of the lines out")

    def find(path: str, names: Sequence[str]) -> str:
        below = NIFTI.sub("", path)
        keys = (below, below.rpartition("/")[2], *names)
        return next((table[key] for key in keys if key in table), "")

    return GivenPatients(f"patients {shown(str(file))}", find)


def _rows(lines: TextIO) -> list[dict[str, str]]:
    """Return the rows of a table by the names of their columns, which commas, semicolons or tabs divide."""
    header = lines.readline()
    lines.seek(0)
    rows = csv.DictReader(lines, delimiter=max(",;\t", key=header.count))
    return [{str(key).strip().lower(): str(value or "").strip() for key, value in row.items()} for row in rows]
