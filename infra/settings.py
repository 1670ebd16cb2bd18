"""Write the reference of all settings from their types: `python infra/settings.py` writes jobs/settings.md.

`--check` says whether that is still what the types say.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from cluster.config import EvaluateConfig, PrepareConfig, PromotionConfig, SweepConfig
from cluster.recipes import leaves
from jobs.interface.settings import about_setting
from metasr.config import SAME_RUN

PAGE = Path(__file__).parents[1] / "jobs" / "settings.md"
HEAD = """# All settings

`optim.generator_lr` in a recipe is `--optim.generator-lr` on the command line (or `--optim.generator_lr`), and
`optim.generator_lr` in a sweep and among MLflow's params. Defaults are in brackets; later ones win: defaults <
recipe < trial < command line. `metasr train --print-config` prints each value and where it came from. Settings
with a * belong to the run's name: another value is another run. Written by `python infra/settings.py` from the types
in `metasr/config.py` and `cluster/config.py`.
"""
VERBS = {
    "search": "`metasr tune`",
    "tasks": "`metasr evaluate` and `upscale`",
    "downstream": "`metasr evaluate`",
    "gate": "`metasr promote`",
    "": "`metasr prepare`: flags without a section",
}
"""Who takes a section; others are of `metasr train`, and of the verbs that look at or repeat a training."""


def page() -> str:
    """Return the reference."""
    lines, seen = [HEAD], set[str]()
    for model in (SweepConfig, EvaluateConfig, PromotionConfig, PrepareConfig):
        for section, settings in sections(model).items():
            if section not in seen:
                seen.add(section)
                lines += ["", *_section(model, section, settings)]
    return "\n".join(lines) + "\n"


def sections(model: type[BaseModel]) -> dict[str, list[str]]:
    """Return the names of the settings of a config type by section, in their order."""
    found: dict[str, list[str]] = {}
    for name, _ in leaves(model):
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


def _section(model: type[BaseModel], section: str, names: list[str]) -> Iterator[str]:
    fields, naming = dict(leaves(model)), {name for name, _ in leaves(model, without=SAME_RUN)}
    about = (model.model_fields[section].annotation.__doc__ if section else model.__doc__) or ""
    yield f"## {section or 'prepare'}"
    yield ""
    yield f"{' '.join(about.split())}" + (f" For {VERBS[section]}." if section in VERBS else "")
    yield ""
    yield "| setting | |"
    yield "|---|---|"
    for name in names:
        mark = " *" if section not in VERBS and name in naming else ""
        text = f"{' '.join(fields[name].description.split())} [{about_setting(fields[name])}]"
        yield f"| `{name}`{mark} | {text.replace('|', chr(92) + '|')} |"


def main() -> int:
    """Write the page, or check it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 unless the page is current")
    if not parser.parse_args().check:
        PAGE.write_text(page())
        return 0
    if PAGE.is_file() and PAGE.read_text() == page():
        return 0
    print(f"{PAGE} is not what the types say: run `python infra/settings.py`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
