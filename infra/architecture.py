"""Draw the architecture from the imports: rooms as boxes, one above those that it imports.

`python infra/architecture.py` writes architecture.svg beside this file; `--check` says whether that is still what
the imports say. An arrow that follows from others is left out: where a imports b and b imports c, a may import c too.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import grimp
import networkx
from matplotlib import rcParams
from matplotlib.figure import Figure

PICTURE = Path(__file__).with_suffix(".svg")
ROOT = PICTURE.parents[1]
FLOORS = ("jobs", "cluster", "metasr")
COLOURS = {"jobs": "#7a4fbf", "cluster": "#1f6fb2", "metasr": "#2e8b57"}
SWEEPS = 12
BOX_HEIGHT = 0.36


def rooms() -> networkx.DiGraph:
    """Return which room imports which. A room is a package, or a module that lies beside packages.

    Raises:
        SystemExit: Rooms import each other in a circle.
    """
    sys.path.insert(0, str(ROOT))
    imports = grimp.build_graph(*FLOORS)
    found = networkx.DiGraph()
    for module in imports.modules:
        room = _room(module)
        found.add_node(room)
        others = (_room(name) for name in imports.find_modules_directly_imported_by(module))
        found.add_edges_from((room, other) for other in others if other != room)
    found.remove_nodes_from([floor for floor in FLOORS if floor != "jobs"])  # their __init__.py hold no code
    if circles := list(networkx.simple_cycles(found)):
        raise SystemExit(f"rooms import each other in a circle: {' -> '.join([*circles[0], circles[0][0]])}")
    return networkx.transitive_reduction(found)


def _room(module: str) -> str:
    parts = module.split(".")
    return "jobs" if parts[0] == "jobs" else ".".join(parts[:2])


def rows(found: networkx.DiGraph) -> list[list[str]]:
    """Return the rooms from the lowest row to the highest: each above all that it imports, floor on floor."""
    level: dict[str, int] = {}
    ground = 0
    for floor in reversed(FLOORS):
        inside = [room for room in reversed(list(networkx.topological_sort(found))) if room.split(".")[0] == floor]
        for room in inside:
            level[room] = max([ground - 1, *(level[other] for other in found.successors(room))]) + 1
        ground = max(level.values()) + 1
    placed: list[list[str]] = [[] for _ in range(ground)]
    for room in sorted(level):
        placed[level[room]].append(room)
    for _ in range(SWEEPS):
        _untangle(found, placed)
    return placed


def _untangle(found: networkx.DiGraph, placed: list[list[str]]) -> None:
    """Order each row by where the rooms lie that its rooms have arrows to and from."""
    where = {room: x for row in placed for room, x in zip(row, _across(len(row)), strict=True)}

    def middle(room: str) -> float:
        neighbours = [where[other] for other in (*found.successors(room), *found.predecessors(room))]
        return sum(neighbours) / len(neighbours) if neighbours else where[room]

    for row in placed:
        row.sort(key=middle)


def _across(number: int) -> Iterable[float]:
    return [place - (number - 1) / 2 for place in range(number)]


def draw(found: networkx.DiGraph) -> None:
    """Write the picture, with the arrows in its description for `--check`."""
    placed = rows(found)
    width, height = max(map(len, placed)), len(placed)
    figure = Figure(figsize=(width * 1.9, height * 0.85))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-width / 2, width / 2)
    axes.set_ylim(-0.5, height - 0.5)
    where = {room: (x, y) for y, row in enumerate(placed) for room, x in zip(row, _across(len(row)), strict=True)}
    for room, other in sorted(found.edges):
        (x0, y0), (x1, y1) = where[room], where[other]
        ends = {"xy": (x1, y1 + BOX_HEIGHT / 2), "xytext": (x0, y0 - BOX_HEIGHT / 2)}
        arrow = {"arrowstyle": "-|>", "color": COLOURS[room.split(".")[0]], "alpha": 0.55, "lw": 0.9}
        axes.annotate("", **ends, arrowprops=arrow | {"connectionstyle": f"arc3,rad={0.04 * (x1 - x0):.3f}"})
    for room, (x, y) in where.items():
        floor, _, name = room.partition(".")
        axes.text(
            x,
            y,
            f"{floor}\n{name}" if name else floor,
            ha="center",
            va="center",
            color="white",
            fontsize=7.5,
            bbox={"boxstyle": "round,pad=0.45", "facecolor": COLOURS[floor], "edgecolor": "white", "lw": 1.5},
        )
    rcParams.update({"svg.hashsalt": "architecture", "svg.fonttype": "none", "font.family": "sans-serif"})
    figure.patch.set_facecolor("white")
    figure.savefig(PICTURE, metadata={"Date": None, "Description": _described(found)})


def _described(found: networkx.DiGraph) -> str:
    return json.dumps([f"{room} imports {other}" for room, other in sorted(found.edges)])


def main() -> int:
    """Draw, or check; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="draw nothing; fail if the picture is out of date")
    found = rooms()
    if not parser.parse_args().check:
        draw(found)
        print(f"{PICTURE.relative_to(ROOT)}: {len(found)} rooms, {len(found.edges)} arrows")
        return 0
    drawn = re.search(r"<dc:description>(.*?)</dc:description>", PICTURE.read_text(encoding="utf-8"), re.DOTALL)
    if drawn and json.loads(drawn[1]) == json.loads(_described(found)):
        return 0
    print("infra/architecture.svg is not what the imports say: make picture", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
