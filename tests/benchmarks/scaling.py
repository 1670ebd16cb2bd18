"""What training on 1 to 512 GPUs would take, from the time of a step on one GPU and the bytes of gradients.

    python -m tests.benchmarks.scaling                                      with the figures of README.md here
    python -m tests.benchmarks.scaling --fixed-ms 3 --patch-ms 0.1          with those of another GPU
    python -m tests.benchmarks.scaling --link "InfiniBand NDR" 50 5         with another network: GB/s, microseconds

A step on n GPUs is that of one GPU, and a ring all-reduce of the gradients of each network, after the other and not
beside the computation: an upper bound. Each GPU keeps its patches, so that the batch grows with n. How many steps a
larger batch saves is a model too: steps = s (1 + critical batch / batch). Nothing here was measured on several GPUs.

Sources: ring all-reduce: Patarasuk and Yuan 2009. Steps: McCandlish et al. 2018, Eq. 2.11.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from metasr.config import ModelConfig
from metasr.models import build_discriminator, build_generator

GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BYTES_OF_FLOAT = 4


@dataclass(frozen=True)
class Step:
    """A step on one GPU, measured.

    Attributes:
        fixed_s: Seconds that it takes however few patches it has: the starts of its kernels.
        patch_s: Seconds more for each patch.
    """

    fixed_s: float
    patch_s: float

    def seconds(self, patches: int) -> float:
        """Return the time of a step of a number of patches."""
        return self.fixed_s + patches * self.patch_s


@dataclass(frozen=True)
class Link:
    """What GPUs are connected with.

    Attributes:
        name: For people.
        bytes_per_s: That each GPU sends to the next of the ring, while it receives as many.
        latency_s: Until the first byte arrives.
    """

    name: str
    bytes_per_s: float
    latency_s: float

    def all_reduce_s(self, num_bytes: int, gpus: int) -> float:
        """Return the time of a ring all-reduce: 2 (n - 1) messages in turn, each of an n-th of the bytes."""
        messages = 2 * (gpus - 1)
        return messages * (num_bytes / gpus / self.bytes_per_s + self.latency_s)


@dataclass(frozen=True)
class Plan:
    """A training to the quality of `steps` steps of one GPU's batch.

    Attributes:
        step: On one GPU.
        gradients: Bytes of each network's gradients, reduced one after the other.
        patches: Of a step, on each GPU.
        steps: With the batch of one GPU.
        critical_batch: Batch with which it takes twice the fewest possible steps.
        dollars_per_hour: Price of a GPU.
    """

    step: Step
    gradients: tuple[int, ...]
    patches: int
    steps: int
    critical_batch: float
    dollars_per_hour: float

    def step_s(self, link: Link, gpus: int) -> float:
        """Return the time of a step on a number of GPUs."""
        return self.step.seconds(self.patches) + sum(link.all_reduce_s(size, gpus) for size in self.gradients)

    def num_steps(self, gpus: int) -> float:
        """Return the steps that a batch of all GPUs takes, with its learning rate, to the same quality."""
        one = 1 + self.critical_batch / self.patches
        return self.steps * (1 + self.critical_batch / (self.patches * gpus)) / one

    def hours(self, link: Link, gpus: int) -> float:
        """Return how long it takes."""
        return self.num_steps(gpus) * self.step_s(link, gpus) / 3600

    def dollars(self, link: Link, gpus: int) -> float:
        """Return what it costs."""
        return self.hours(link, gpus) * gpus * self.dollars_per_hour

    def most_useful(self, link: Link, least_gain: float) -> int:
        """Return up to how many GPUs twice as many are `least_gain` times faster or more."""
        best = GPUS[0]
        for gpus in GPUS[1:]:
            if self.hours(link, best) < least_gain * self.hours(link, gpus):
                break
            best = gpus
        return best


def gradient_bytes() -> tuple[int, ...]:
    """Return the bytes of the gradients of the default generator and discriminator in float32."""
    networks = build_generator(ModelConfig(), mean=0.0, std=1.0), build_discriminator(ModelConfig())
    return tuple(BYTES_OF_FLOAT * sum(p.numel() for p in network.parameters()) for network in networks)


def table(plan: Plan, links: Sequence[Link], least_gain: float) -> str:
    """Return all of it in Markdown."""
    cells = [f"{link.name}: ms | shared | hours | $" for link in links]
    lines = [f"| GPUs | batch | steps | {' | '.join(cells)} |", "|---" * (3 + 4 * len(links)) + "|"]
    for gpus in GPUS:
        row = [f"| {gpus} | {gpus * plan.patches:,} | {plan.num_steps(gpus):,.0f}"]
        for link in links:
            whole = plan.step_s(link, gpus)
            shared = 1 - plan.step.seconds(plan.patches) / whole
            hours, dollars = plan.hours(link, gpus), plan.dollars(link, gpus)
            row.append(f"{1e3 * whole:.1f} | {shared:.0%} | {hours:.2f} | {dollars:,.0f}")
        lines.append(" | ".join(row) + " |")
    lines.append("")
    for link in links:
        lines.append(
            f"{link.name}: twice the GPUs take at least {1 - 1 / least_gain:.0%} less time up to "
            f"{plan.most_useful(link, least_gain)} of them."
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--fixed-ms", type=float, default=14.9, help="of a step, however few patches it has [14.9: H100, README.md]")
    add("--patch-ms", type=float, default=0.68, help="of a step, for each patch [0.68: H100, README.md]")
    add("--patches", type=int, default=8, help="of a step on each GPU [8]")
    add("--steps", type=int, default=720_000, help="of training with the batch of one GPU [720000]")
    add("--critical-batch", type=float, default=64, help="assumed: measure it by training with two batches [64]")
    add("--price", type=float, default=3.0, help="dollars of a GPU for an hour, assumed [3]")
    add("--least-gain", type=float, default=1.25, help="how much faster twice the GPUs must be to pay [1.25]")
    add(
        "--link",
        nargs=3,
        action="append",
        metavar=("NAME", "GB/S", "MICROSECONDS"),
        help="instead of three",
    )
    options = parser.parse_args()
    links = [Link(name, float(rate) * 1e9, float(latency) * 1e-6) for name, rate, latency in options.link or LINKS]
    step = Step(options.fixed_ms / 1e3, options.patch_ms / 1e3)
    plan = Plan(step, gradient_bytes(), options.patches, options.steps, options.critical_batch, options.price)
    sizes = " and ".join(f"{size / 1e6:.1f} MB" for size in plan.gradients)
    print(f"Gradients of {sizes}; a critical batch of {plan.critical_batch:g} patches is assumed")
    print(f"$ {plan.dollars_per_hour:g} for an hour of a GPU\n")
    print(table(plan, links, options.least_gain))


# What makers promise for one direction, not measured. The ring crosses a node's network card once.
LINKS = (("NVLink", "450", "2"), ("InfiniBand", "50", "5"), ("100 GbE", "12.5", "30"))

if __name__ == "__main__":
    main()
