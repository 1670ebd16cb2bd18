"""What the bits of a result depend on beside the program and its input, and what a device computes quickly."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch

Precision = Literal["auto", "float32", "bfloat16"]


def arithmetic(device: torch.device) -> str:
    """Return in one line what must be equal for two runs to give the same bits: processor, threads, libraries."""
    libraries = f"torch {torch.__version__}, numpy {np.__version__}"
    if device.type == "cuda":
        versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        return f"{torch.cuda.get_device_name(device)}, {versions}, {libraries}"
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'s' if threads > 1 else ''}, {libraries}"


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes bfloat16 natively: where not, float32 is faster, on a CPU five times."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    native = {"avx512_bf16", "amx_bf16"} & set(_cpu_info("flags").split())
    return bool(native) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def half_precision(precision: str, device: torch.device) -> bool:
    """Return whether a `Precision`, such as `train.precision`, means bfloat16 on a device."""
    return precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))


@contextmanager
def deterministic(device: torch.device, *, enabled: bool) -> Iterator[None]:
    """Have a GPU compute the same bits every time, at some cost; a CPU does so by itself."""
    if not enabled or device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(name: str) -> str:
    """Return what Linux says of the first processor; empty if it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
