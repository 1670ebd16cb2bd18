"""What is timed: groups of calls on the same inputs, each with the arithmetic and the bytes that it cannot avoid."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from metasr.data.degrade import resize_bicubic
from metasr.inference.engine import Engine
from metasr.inference.trunk import FoldedTrunk
from metasr.models import EDSR, SRGAN, Features, Generator, Kept, SuperResolver
from metasr.models.meta_upscale_reference import per_pixel

SCALES = {"1.1": 1.1, "1.5": 1.5, "2": 2.0, "2.5": 2.5, "2.7": 2.7, "3.3": 3.3, "4": 4.0, "pi": math.pi}
QUICK_SCALES = ("2", "2.7", "pi")
QUICK_TENTHS = (20, 27)
MEAN, STD = 0.3, 0.25


@dataclass(frozen=True)
class Work:
    """What a call cannot avoid, however it is written.

    Attributes:
        flops: Additions and multiplications of products; activations do not count.
        num_bytes: Weights and inputs, read once, and the result, written once.
    """

    flops: float
    num_bytes: float


@dataclass
class Group:
    """Calls that take turns.

    Attributes:
        name: Of the group.
        inputs: What they compute, in words.
        rounds: How often each is timed.
        calls: By name.
        work: Of each call.
    """

    name: str
    inputs: str
    rounds: int
    calls: dict[str, Callable[[], object]] = field(default_factory=dict)
    work: dict[str, Work] = field(default_factory=dict)

    def add(self, name: str, work: Work, call: Callable[[], object]) -> None:
        """Add a call."""
        self.calls[name], self.work[name] = call, work


def groups(device: torch.device, *, quick: bool) -> Iterator[Group]:
    """Make one group after the other."""
    torch.manual_seed(0)
    generator = Generator(norm="none", skip="bicubic", mean=MEAN, std=STD).to(device).eval().requires_grad_(False)
    others = {"SRGAN": SRGAN(mean=MEAN, std=STD), "EDSR": EDSR(mean=MEAN, std=STD)}
    yield networks(generator, others, 32 if quick else 96, 5 if quick else 3)
    yield slices(generator, 80 if quick else 240, 7, QUICK_SCALES if quick else tuple(SCALES))
    for tenths in QUICK_TENTHS if quick else range(11, 41):
        yield batch(generator, tenths, 3)


def networks(generator: Generator, others: Mapping[str, SuperResolver], lr_side: int, rounds: int) -> Group:
    """An image enlarged twice: this project's network in three ways, other networks, and bicubic interpolation."""
    side = 2 * lr_side
    group = Group("networks", f"{lr_side} x {lr_side} pixels to {side} x {side}", rounds)
    lr, size, engine = _images(generator, 1, lr_side), (side, side), Engine(generator)

    def pixel_by_pixel() -> Tensor:
        image = per_pixel(generator.upscale, generator.encode(lr).maps, size) * generator.std
        return image + resize_bicubic(lr, size)

    work = _sum(_encoding(generator, lr), decoding(1, 64, lr_side, side))
    group.add("Meta-SRGAN, Engine", work, lambda: engine(lr, size))
    group.add("Meta-SRGAN, plain", work, lambda: plain(generator, lr, size))
    group.add("Meta-SRGAN, per-pixel", work, pixel_by_pixel)
    for name, network in others.items():
        network = network.to(lr.device).eval().requires_grad_(False)
        group.add(name, _counted(network, lr, size), lambda network=network: network(lr, size))
    group.add("bicubic", _bicubic(1, lr_side, side), lambda: resize_bicubic(lr, size))
    return group


def slices(generator: Generator, lr_side: int, rounds: int, scales: tuple[str, ...]) -> Group:
    """A slice: encoded once, decoded at several scales with kept kernels, with kernels made anew, and plainly."""
    group = Group("slice", f"a slice of {lr_side} x {lr_side} pixels", rounds)
    lr, engine = _images(generator, 1, lr_side), Engine(generator)
    encoding, last = _encoding(generator, lr), _engine_trunk(generator)
    normal = (lr - generator.mean) / generator.std
    group.add("encode", encoding, lambda: last(normal))
    group.add("encode, channels first", encoding, lambda: generator.trunk(normal))
    size = 2 * lr_side, 2 * lr_side
    whole = _sum(encoding, decoding(1, 64, lr_side, size[0]))
    group.add("whole at 2, Engine", whole, lambda: engine(lr, size))
    group.add("whole at 2, plain", whole, lambda: plain(generator, lr, size))
    fast, slow = Features(last(normal), lr), generator.encode(lr)
    for name in scales:
        side = round(lr_side * SCALES[name])
        _add_decodes(group, generator, (fast, slow), side, f"decode at {name}")
    return group


def batch(generator: Generator, tenths: int, rounds: int) -> Group:
    """Eight patches as in training, of up to 96 x 96 HR pixels, decoded at a tenth: also pixel by pixel."""
    period = tenths // math.gcd(tenths, 10)
    hr_side = 96 // period * period
    lr_side = hr_side * 10 // tenths
    name = f"{tenths / 10:g}"
    group = Group(f"batch at {name}", f"8 patches of {lr_side} x {lr_side} pixels to {hr_side} x {hr_side}", rounds)
    lr = _images(generator, 8, lr_side)
    fast = Features(_engine_trunk(generator)((lr - generator.mean) / generator.std), lr)
    slow = generator.encode(lr)

    def pixel_by_pixel() -> Tensor:
        image = per_pixel(generator.upscale, slow.maps, (hr_side, hr_side)) * generator.std
        return image + resize_bicubic(lr, (hr_side, hr_side))

    _add_decodes(group, generator, (fast, slow), hr_side, "decode")
    group.add("decode, per-pixel", group.work["decode"], pixel_by_pixel)
    return group


def plain(generator: Generator, lr: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge as training does: no layout of the Engine's, no kept kernels. Its weights must take no gradients."""
    with torch.enable_grad():  # this is what `decode` chooses the form by
        return generator(lr, size)


def decoding(num_images: int, channels: int, lr_side: int, hr_side: int) -> Work:
    """Return the work of meta-upscale with a bicubic skip: products of 3x3 kernels; predicting them is not in it."""
    pixels, cells = num_images * hr_side**2, num_images * lr_side**2
    return _sum(Work(2 * 9 * channels * pixels, 4 * channels * cells), _bicubic(num_images, lr_side, hr_side))


def _add_decodes(
    group: Group, generator: Generator, features: tuple[Features, Features], hr_side: int, name: str
) -> None:
    fast, slow = features
    num_images, channels, lr_side, _ = fast.maps.shape
    work, size, kept = decoding(num_images, channels, lr_side, hr_side), (hr_side, hr_side), Kept()

    def training_form() -> Tensor:
        with torch.enable_grad():
            return generator.decode(slow, size)

    group.add(name, work, lambda: generator.decode(fast, size, kept))
    group.add(f"{name}, kernels anew", work, lambda: generator.decode(fast, size))
    group.add(f"{name}, plain", work, training_form)


def _images(generator: Generator, number: int, side: int) -> Tensor:
    return torch.rand(number, 1, side, side, device=generator.mean.device)


def _engine_trunk(generator: Generator) -> Callable[[Tensor], Tensor]:
    """Return the trunk as the Engine computes it."""
    return FoldedTrunk(generator.trunk) if generator.mean.device.type == "cpu" else generator.trunk


def _encoding(generator: Generator, lr: Tensor) -> Work:
    with FlopCounterMode(display=False) as counter:
        maps = generator.encode(lr).maps
    weights = _num_weights(generator.trunk)
    return Work(counter.get_total_flops(), 4 * (weights + lr.numel() + maps.numel()))


def _counted(network: SuperResolver, lr: Tensor, size: tuple[int, int]) -> Work:
    with FlopCounterMode(display=False) as counter:
        image = network(lr, size)
    return Work(counter.get_total_flops(), 4 * (_num_weights(network) + lr.numel() + image.numel()))


def _bicubic(num_images: int, lr_side: int, hr_side: int) -> Work:
    """Four taps along each axis, one after the other."""
    flops = 2 * 4 * num_images * (lr_side * hr_side + hr_side**2)
    return Work(flops, 4 * num_images * (lr_side**2 + hr_side**2))


def _sum(*works: Work) -> Work:
    return Work(sum(work.flops for work in works), sum(work.num_bytes for work in works))


def _num_weights(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
