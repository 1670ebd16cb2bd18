"""The known vulnerabilities of all locked dependencies, from a folder of advisories, without a network.

`python infra/advisories.py FOLDER [LOCK]`; FOLDER has advisories in OSV's format, YAML or JSON, at any depth, such as
a checkout of github.com/pypa/advisory-database, or OSV's own export of PyPI. It prints what it finds, and how new
they are; its exit code is 1 if a locked version is affected, 2 if the folder has no advisories.
Source: https://ossf.github.io/osv-schema (Evaluation).
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

LOCK = Path(__file__).parents[1] / "requirements.lock"
ENDINGS = (".yaml", ".json")
Locked = dict[str, Version]


class Finding(NamedTuple):
    """A locked version that an advisory names: which advisory, under which other names, and where it is mended."""

    package: str
    version: Version
    advisory: str
    aliases: tuple[str, ...]
    mended_in: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join([self.advisory, *self.aliases])
        mended = f"mended in {', '.join(self.mended_in)}" if self.mended_in else "no version mends it"
        return f"{self.package} {self.version}: {names}; {mended}"


def locked(lock: Path) -> Locked:
    """Return the locked versions, by the name of the package."""
    pairs = (line.partition(" ")[0].partition(";")[0].partition("==") for line in lock.read_text().splitlines())
    return {canonicalize_name(name.partition("[")[0]): Version(version) for name, sign, version in pairs if sign}


def advisories(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield all advisories below a folder that were not withdrawn."""
    for path in sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS and ".git" not in path.parts):
        text = path.read_text()
        found = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=yaml.CSafeLoader)
        if isinstance(found, dict) and "affected" in found and "withdrawn" not in found:
            yield found


def findings(advisory: dict[str, Any], packages: Locked) -> Iterator[Finding]:
    """Yield what an advisory says of the locked packages."""
    for affected in advisory["affected"]:
        about = affected.get("package", {})
        name = canonicalize_name(about.get("name", ""))
        version = packages.get(name) if about.get("ecosystem") == "PyPI" else None
        if version is not None and is_affected(affected, version):
            events = [event for one in _ranges(affected) for event in one]
            mended = tuple(str(event["fixed"]) for event in events if "fixed" in event)
            yield Finding(name, version, advisory["id"], tuple(advisory.get("aliases", ())), mended)


def is_affected(affected: dict[str, Any], version: Version) -> bool:
    """Return whether a version is among those an advisory lists, or in one of its ranges."""
    listed = {one for one in map(_version, affected.get("versions", ())) if one is not None}
    return version in listed or any(_is_within(events, version) for events in _ranges(affected))


def _ranges(affected: dict[str, Any]) -> list[list[dict[str, Any]]]:
    return [one["events"] for one in affected.get("ranges", ()) if one.get("type") == "ECOSYSTEM"]


def _is_within(events: list[dict[str, Any]], version: Version) -> bool:
    """Go through a range's events in the order of their versions; the last that the version has reached holds."""
    steps = []
    for event in events:
        for kind, text in event.items():
            if (at := _version(text)) is not None:
                steps.append((at, kind))
    within = False
    for at, kind in sorted(steps):
        if kind == "introduced" and at <= version:
            within = True
        elif (kind == "fixed" and at <= version) or (kind == "last_affected" and at < version):
            within = False
    return within


def _version(text: object) -> Version | None:
    try:
        return Version(str(text))
    except InvalidVersion:
        return None


def main(folder: Path, lock: Path) -> int:
    """Print what is found, and return the exit code."""
    packages, found, newest, number = locked(lock), set[Finding](), "", 0
    for advisory in advisories(folder):
        number += 1
        newest = max(newest, str(advisory.get("modified", "")))
        found.update(findings(advisory, packages))
    if not number:
        print(f"{folder}: no advisories in OSV's format below it", file=sys.stderr)
        return 2
    print(f"{len(packages)} packages, {number} advisories, the newest of {newest[:10]}: {len(found)} found")
    for one in sorted(found):
        print(one)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else LOCK))
