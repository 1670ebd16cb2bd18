"""Time calls that take turns, and the rates of matrix products and copies that bound them, on a CPU or a GPU."""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
AT_LEAST_S = 0.01  # a call that takes less is measured several times in a row


@dataclass(frozen=True)
class Clock:
    """A clock for calls on a device.

    Attributes:
        device: Where the calls compute.
        threads: Of the CPU. With one, processor time is taken, which other work on the machine changes least.
    """

    device: torch.device
    threads: int

    @property
    def kind(self) -> str:
        """What is measured, in words."""
        if self.device.type == "cuda":
            return "time between CUDA events"
        return "processor time, one thread" if self.threads == 1 else f"time, {self.threads} threads"

    def seconds(self, call: Callable[[], object], times: int = 1) -> float:
        """Return the seconds of a call: the mean of several in a row."""
        if self.device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(self.device)
            begin.record()
            for _ in range(times):
                call()
            end.record()
            torch.cuda.synchronize(self.device)
            return float(begin.elapsed_time(end)) / 1e3 / times
        now = time.process_time if self.threads == 1 else time.perf_counter
        began = now()
        for _ in range(times):
            call()
        return (now() - began) / times

    def take_turns(self, calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
        """Return the seconds of each call in each round. A first call of each, which does not count, warms up."""
        times = {}
        for name, call in calls.items():
            call()
            times[name] = math.ceil(AT_LEAST_S / max(self.seconds(call), AT_LEAST_S / 100))
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                seconds[name].append(self.seconds(call, times[name]))
        return seconds

    def rates(self, side: int, copied_bytes: int, rounds: int) -> dict[str, float]:
        """Return the best rates seen: `flops_per_s` of square float32 products, `bytes_per_s` read and written."""
        a, b = torch.rand(2, side, side, device=self.device)
        product, source = torch.empty_like(a), torch.rand(copied_bytes // 4, device=self.device)
        target = torch.empty_like(source)
        calls = {"product": lambda: torch.mm(a, b, out=product), "copy": lambda: target.copy_(source)}
        best = {name: min(seconds) for name, seconds in self.take_turns(calls, rounds).items()}
        return {"flops_per_s": 2 * side**3 / best["product"], "bytes_per_s": 2 * copied_bytes / best["copy"]}


def clock(device: str, threads: int) -> Clock:
    """Set the number of threads and plain float32 on GPUs (TF32 is another arithmetic), and return the clock."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    return Clock(torch.device(device), threads)


def instruction_sets() -> str:
    """Return what of vectors and matrices this processor has, and what torch uses."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    found = [name for name in INSTRUCTION_SETS if name in flags]
    return f"{', '.join(found) or 'none of ' + ', '.join(INSTRUCTION_SETS)}; torch uses {capability()}"


def capability() -> str:
    """Return the vectors that torch's own kernels use."""
    return str(torch.backends.cpu.get_cpu_capability())


def load() -> float:
    """Return how many processes wanted to run, over the last minute."""
    return round(os.getloadavg()[0], 1)
