"""The bounds that `make bench-check` holds ratios of times to, on a CPU with AVX2 alone.

They keep what was reached, measured with one thread: a change that breaks one has made something slower. Raise them
when something becomes faster.
"""

from tests.benchmarks.bench_report import Bound

SLACK = 1.25  # other work on the machine
BOUNDS = (
    Bound("networks", "EDSR", "Meta-SRGAN, Engine", at_least=80, quick_at_least=55),
    Bound("networks", "SRGAN", "Meta-SRGAN, Engine", at_least=2.5, quick_at_least=1.9),
    Bound("networks", "Meta-SRGAN, per-pixel", "Meta-SRGAN, Engine", at_least=5.5, quick_at_least=3.5),
    Bound("slice", "whole at 2, Engine", "whole at 2, plain", at_most=1, quick_at_most=1.05),
    Bound("slice", "decode at 1.1", "encode", at_most=0.1),
    Bound("slice", "decode at 1.5", "encode", at_most=0.04),
    Bound("slice", "decode at 2", "encode", at_most=0.04, quick_at_most=0.05),
    Bound("slice", "decode at 2.5", "encode", at_most=0.1),
    Bound("slice", "decode at 2.7", "encode", at_most=0.1, quick_at_most=0.07),
    Bound("slice", "decode at 3.3", "encode", at_most=0.1),
    Bound("slice", "decode at 4", "encode", at_most=0.06),
    Bound("slice", "decode at pi", "encode", at_most=0.35, quick_at_most=0.4),
    Bound("slice", "decode at 2.7", "decode at 2.7, plain", at_most=0.2, quick_at_most=0.15),
    Bound("slice", "decode at pi", "decode at pi, plain", at_most=0.2, quick_at_most=0.2),
    Bound("batch at 1*", "decode, per-pixel", "decode", at_least=50),
    Bound("batch at 2*", "decode, per-pixel", "decode", at_least=70, quick_at_least=70),
    Bound("batch at 3*", "decode, per-pixel", "decode", at_least=80),
    Bound("batch at 4", "decode, per-pixel", "decode", at_least=150),
    Bound("batch at 2.7", "decode", "decode, plain", at_most=0.15, quick_at_most=0.15),
)
