"""Measure how much faster meta-upscale is than its definition, and how far from it: one slice, one core.

    .venv/bin/python -m tests.benchmarks.meta_upscale

Features of 64 channels become an image of about 240 x 240. The definition predicts a kernel for every pixel.
`MetaUpscale` takes turns with it, and medians are printed. Errors are relative to the largest pixel of the definition
in float64.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

import torch
from torch import Tensor

from metasr.arithmetic import arithmetic
from metasr.models import MetaUpscale
from metasr.models.meta_upscale_reference import per_pixel

# LR and HR side: scales 1.1, 2, 2.5 and 4, whose kernels repeat, and two with hardly any period.
SIZES = ((220, 242), (120, 240), (96, 240), (60, 240), (218, 240), (73, 241))


def main() -> None:
    """Print a row for each scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times each is measured [5]")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer = MetaUpscale(64, 1).requires_grad_(False)
    exact = copy.deepcopy(layer).double()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {arithmetic(torch.device('cpu'))}, milliseconds a slice")
    print("| LR to HR side | pixel by pixel | `MetaUpscale` | largest relative error |\n|---|---|---|---|")
    for lr_side, hr_side in SIZES:
        features, size = torch.randn(1, 64, lr_side, lr_side), (hr_side, hr_side)
        slow, fast = [], []
        for _ in range(rounds):
            slow.append(_seconds(lambda f=features, s=size: per_pixel(layer, f, s)))
            fast.append(_seconds(lambda f=features, s=size: layer(f, s)))
        expected = per_pixel(exact, features.double(), size)
        error = ((layer(features, size) - expected).abs().max() / expected.abs().max()).item()
        medians = [f"{statistics.median(times) * 1e3:.0f}" for times in (slow, fast)]
        print(f"| {lr_side} to {hr_side} | {' | '.join(medians)} | {error:.0e} |", flush=True)


def _seconds(call: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
