"""Parts of Ray have one home each. The contracts in pyproject.toml tell whole libraries apart, not their parts."""

import ast

import pytest

from tests.cluster.training import ROOT

HOMES = {
    "ray.serve": {"cluster/serving"},
    "ray.train": {"cluster/training"},
    "ray.tune": {"cluster/sweep"},
    "ray.util.metrics": {"cluster/serving", "cluster/watch"},
}


def imported(path):
    """The modules, or names in them, that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("part", HOMES)
def test_a_part_of_ray_is_imported_at_home_alone(part):
    found = {
        path.relative_to(ROOT).parent.as_posix()
        for package in ("metasr", "cluster", "jobs")
        for path in (ROOT / package).rglob("*.py")
        if any(f"{name}.".startswith(f"{part}.") for name in imported(path))
    }
    assert found == HOMES[part]
