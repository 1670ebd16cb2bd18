"""The licences of all locked dependencies, from what each installed package says of itself.

`python infra/licences.py FILE [LOCK]` writes a table; its exit code is 1 if a package says nothing.
"""

import sys
from importlib import metadata
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
CLASSIFIER = "License :: OSI Approved :: "
LONGEST = 60  # some packages put the whole text of the licence where its name belongs


def locked(lock: Path) -> list[str]:
    """Return the names of the locked dependencies."""
    lines = lock.read_text().splitlines()
    return [line.partition("==")[0].partition("[")[0] for line in lines if "==" in line]


def licence_of(name: str) -> str:
    """Return the licence of an installed package; empty if it names none.

    Raises:
        PackageNotFoundError: It is not installed.
    """
    about = metadata.metadata(name)
    said = about.get("License-Expression") or _short(about.get("License"))
    classifiers = [one.removeprefix(CLASSIFIER) for one in about.get_all("Classifier") or [] if CLASSIFIER in one]
    return said or "; ".join(classifiers) or _file(name)


def _short(text: str | None) -> str:
    found = (text or "").strip()
    return found if "\n" not in found and len(found) <= LONGEST and found.upper() != "UNKNOWN" else ""


def _file(name: str) -> str:
    """Say in which file a package has the text of its licence; empty if there is none."""
    found = [file.name for file in metadata.files(name) or []]
    texts = [file for file in found if file.upper().startswith(("LICENSE", "LICENCE", "COPYING"))]
    return f"the text in its file {texts[0]}" if texts else ""


def table(lock: Path) -> tuple[str, list[str]]:
    """Return the table, and the packages without a licence; those that are not installed here are left out."""
    rows, without = ["| package | version | licence |", "|---|---|---|"], []
    for name in locked(lock):
        try:
            licence, version = licence_of(name), metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # for another platform, or an extra that is not installed
        rows.append(f"| {name} | {version} | {licence} |")
        if not licence:
            without.append(name)
    return "\n".join(rows) + "\n", without


if __name__ == "__main__":
    text, missing = table(Path(sys.argv[2]) if len(sys.argv) > 2 else LOCK)
    Path(sys.argv[1]).write_text(text)
    if missing:
        sys.exit(f"no licence is named by: {', '.join(missing)}")
