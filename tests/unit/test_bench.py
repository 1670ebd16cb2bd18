"""The benchmark's arithmetic: floors, ratios, bounds and tables, from figures made up here."""

from fnmatch import fnmatch
from itertools import groupby

import pytest
import torch

from metasr.models import EDSR, SRGAN, Generator
from tests.benchmarks.bench import ROOT
from tests.benchmarks.bench_bounds import BOUNDS
from tests.benchmarks.bench_cases import SCALES, batch, decoding, networks, slices
from tests.benchmarks.bench_clock import Clock
from tests.benchmarks.bench_report import Bound, check, floor_s, markdown, ratio, readme_table, with_table

pytestmark = pytest.mark.usefixtures("one_thread")

RATES = {"flops_per_s": 1e9, "bytes_per_s": 1e8}


def call(*seconds, flops=1e6, num_bytes=1e3):
    return {"work": {"flops": flops, "num_bytes": num_bytes}, "seconds": list(seconds)}


def result(quick=False):
    ours, edsr = call(0.002, 0.004, 0.002), call(0.2, 0.4, 9.0)
    decodes = {name: call(0.001, 0.002, 0.001) for name in ("decode at 2.7", "decode at pi")}
    return {
        "date": "2026-12-01",
        "command": "python -m bench",
        "quick": quick,
        "clock": "processor time, one thread",
        "machine": {
            "arithmetic": "a processor",
            "cores": 2,
            "instruction_sets": "avx2",
            "load_before": 3.0,
            "load_after": 4.0,
            "idle_below": 0.5,
        },
        "rates": RATES,
        "groups": [
            {"name": "networks", "inputs": "9 to 18", "rounds": 3, "calls": {"ours": ours, "EDSR": edsr}},
            {
                "name": "slice",
                "inputs": "a slice",
                "rounds": 3,
                "calls": {"encode": call(0.01, 0.02, 0.01)} | decodes,
            },
        ],
    }


def test_the_floor_is_the_longer_of_products_and_bytes():
    assert floor_s({"flops": 2e9, "num_bytes": 1e8}, RATES) == 2
    assert floor_s({"flops": 2e9, "num_bytes": 3e8}, RATES) == 3


def test_decoding_reads_features_once_and_multiplies_a_window_for_each_pixel():
    work = decoding(2, 64, lr_side=10, hr_side=25)
    bicubic = 2 * 2 * 4 * (10 * 25 + 25 * 25)
    assert work.flops == 2 * 9 * 64 * 2 * 25 * 25 + bicubic
    assert work.num_bytes == 4 * (64 * 2 * 100 + 2 * 100 + 2 * 625)


def test_a_ratio_is_of_calls_in_the_same_round_and_one_bad_round_does_not_move_it():
    assert ratio(result()["groups"][0], "EDSR", "ours") == pytest.approx(100)


@pytest.mark.parametrize(
    ("bound", "holds"),
    [
        (Bound("networks", "EDSR", "ours", at_least=120), True),  # within the slack
        (Bound("networks", "EDSR", "ours", at_least=130), False),
        (Bound("net*", "EDSR", "ours", at_most=81), True),
        (Bound("net*", "EDSR", "ours", at_most=79), False),
        (Bound("networks", "EDSR", "ours", at_least=90, at_most=79), False),
    ],
)
def test_a_ratio_may_miss_its_bound_by_the_slack(bound, holds):
    ((held, line),) = check(result(), [bound], slack=1.25)
    assert held == holds
    assert line.startswith("holds" if holds else "BROKEN")
    assert "EDSR / ours is 100" in line


def test_a_quick_run_has_bounds_of_its_own():
    bound = Bound("networks", "EDSR", "ours", at_least=1000, quick_at_least=90)
    assert [held for held, _ in check(result(quick=True), [bound], 1.0)] == [True]
    assert list(check(result(quick=True), [Bound("networks", "EDSR", "ours", at_least=1000)], 1.0)) == []


@pytest.fixture(scope="module")
def small_groups():
    torch.manual_seed(0)
    generator = Generator(num_blocks=1, skip="bicubic", mean=0.3, std=0.25).eval().requires_grad_(False)
    generator.upscale.output_gain = 1.0
    with torch.inference_mode():
        others = {"SRGAN": SRGAN(num_features=4, num_blocks=1), "EDSR": EDSR(num_features=4, num_blocks=1)}
        yield [networks(generator, others, 4, 1), slices(generator, 20, 1, tuple(SCALES)), batch(generator, 27, 1)]


def test_calls_with_the_same_work_make_the_same_image(small_groups):
    for group in small_groups:
        images = {}
        for name, call in group.calls.items():
            images.setdefault(group.work[name], []).append(call())
        assert any(len(same) > 2 for same in images.values())
        for first, *others in images.values():
            for other in others:
                torch.testing.assert_close(other, first, rtol=0, atol=1e-5 * float(first.abs().max()))


def test_every_bound_is_of_calls_that_are_measured(small_groups):
    names = ["networks", "slice", *(f"batch at {tenths / 10:g}" for tenths in range(11, 41))]
    calls = {name: set(group.calls) for group in small_groups for name in names if name[:5] == group.name[:5]}
    for bound in BOUNDS:
        measured = [name for name in names if fnmatch(name, bound.group)]
        assert measured
        assert all({bound.call, bound.by} <= calls[name] for name in measured)


def test_tables_name_machine_date_command_and_other_work():
    for text in (markdown(result()), readme_table(result())):
        for word in ("a processor", "2026-12-01", "`python -m bench`", "avx2", "shared with other work"):
            assert word in " ".join(text.split())
    assert "| EDSR | 400 | 1 | 100 |" in markdown(result())
    assert "| EDSR, 9 to 18 | 400 | 1 | 100 times as long |" in readme_table(result())
    assert "| decode at pi, a slice | 1 | 1 | 10% of encode |" in readme_table(result())


def test_the_table_takes_the_place_between_the_markers_and_nothing_else():
    text = "before\n<!-- bench -->\nold\n<!-- /bench -->\nafter \\1\n"
    assert with_table(text, "new \\1\n") == "before\n<!-- bench -->\nnew \\1\n<!-- /bench -->\nafter \\1\n"
    with pytest.raises(ValueError, match="<!-- bench -->"):
        with_table("no markers", "new")


def test_the_front_page_has_the_markers():
    assert with_table((ROOT / "README.md").read_text(), "")


def test_calls_take_turns():
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = Clock(torch.device("cpu"), threads=2).take_turns(calls, rounds=2)
    assert [name for name, _ in groupby(order)] == ["a", "b", "a", "b", "a", "b"]  # the first turn warms up
    assert {name: len(found) for name, found in seconds.items()} == {"a": 2, "b": 2}
