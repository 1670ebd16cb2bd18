"""Weights in the layout of the authors' public code, converted to our generator's.

| theirs | ours |
|---|---|
| `block1` | `trunk.head` |
| `block2.block1` ... `block6.block1` | `trunk.blocks.0.branch` ... `trunk.blocks.4.branch` |
| `block7` | `trunk.fuse` |
| `MetaUpscaleModule.weight_prediction_network.wpn.0` | `upscale.position` |
| `MetaUpscaleModule.weight_prediction_network.wpn.2` | `upscale.kernel` |

Both predict a kernel from (frac(i / r), frac(j / r), 1 / r). Theirs is laid out `[in, k, k, out]`; ours is
`[out, in, k, k]` and multiplied by a gain. Where their floating-point floor picks the wrong LR cell, images differ.
(Meta-SR, Hu et al. 2019, lays kernels out as they do, but its position is (1 / r, row, column).)
"""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from metasr.errors import CheckpointError
from metasr.models.generator import Generator

NUM_BLOCKS = 5
PARTS = {
    "block1": "trunk.head",
    **{f"block{number + 2}.block1": f"trunk.blocks.{number}.branch" for number in range(NUM_BLOCKS)},
    "block7": "trunk.fuse",
    "MetaUpscaleModule.weight_prediction_network.wpn.0": "upscale.position",
    "MetaUpscaleModule.weight_prediction_network.wpn.2": "upscale.kernel",
}


def convert_public_weights(weights: Mapping[str, Tensor], *, mean: float = 0.0, std: float = 1.0) -> Generator:
    """Build the paper's generator, in evaluation mode, from weights in the authors' layout.

    Args:
        weights: Their state dict, for gray images or RGB.
        mean: Mean intensity they were trained with, which their files do not hold.
        std: Standard deviation of the intensity.

    Raises:
        CheckpointError: Weights are missing, too many, or have other shapes.
    """
    renamed = {_our_name(name): value for name, value in weights.items()}
    first = renamed.get("trunk.head.0.weight")
    if first is None or first.dim() != 4:
        raise _unreadable("the weights", "there is no convolution named block1.0")
    num_features, channels = first.shape[:2]
    generator = Generator(channels=channels, num_features=num_features, num_blocks=NUM_BLOCKS, mean=mean, std=std)
    for name in ("upscale.kernel.weight", "upscale.kernel.bias"):
        if name in renamed and len(renamed[name]) % channels == 0:
            by_output = renamed[name].unflatten(0, (-1, channels)).transpose(0, 1).flatten(0, 1)
            renamed[name] = by_output / generator.upscale.output_gain
    try:
        generator.load_state_dict({"mean": generator.mean, "std": generator.std, **renamed})
    except RuntimeError as error:
        raise _unreadable("the weights", str(error)) from error
    return generator.eval()


def load_public_weights(file: Path, *, mean: float = 0.0, std: float = 1.0) -> Generator:
    """Read a safetensors file of those weights. The authors' own files are pickles, which are not read.

    Raises:
        CheckpointError: The file cannot be read, or see `convert_public_weights`.
    """
    try:
        weights = safetensors.torch.load_file(file)
    except (SafetensorError, OSError) as error:
        raise _unreadable(str(file), str(error)) from error
    return convert_public_weights(weights, mean=mean, std=std)


def _our_name(name: str) -> str:
    for theirs, ours in PARTS.items():
        if name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs)
    raise _unreadable("the weights", f"{name} is not one of their names")


def _unreadable(what: str, why: str) -> CheckpointError:
    return CheckpointError(what, why, "Give safetensors in the layout of the authors' public code")
