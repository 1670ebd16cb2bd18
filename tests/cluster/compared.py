"""Checkpoints that are compared, and how they are changed so that they differ."""

import json

import safetensors.torch
import torch

from cluster.compare.runs import verify_run
from metasr.manifest import seal
from metasr.training.state import WEIGHTS
from tests.unit.runs import experiment

CAUSES = ["code version", "settings", "data", "start", "arithmetic"]
MOMENT = "generator_optimiser/0/exp_avg"


def config(**changes):
    return experiment(**({"checkpoint_every_steps": 2} | changes))


def compare(a, b, storage="~/no-such-folder"):
    return verify_run(str(a), str(b), storage)


def reseal(folder, **changes):
    """Make a changed checkpoint whole again."""
    seal(folder, "checkpoint", json.loads((folder / "manifest.json").read_text())["about"] | changes)


def change_tensor(folder, name, change):
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    tensors[name] = change(tensors[name])
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    reseal(folder)


def flip_lowest_bit(tensor):
    bits = tensor.view(torch.int32)
    bits.view(-1)[0] ^= 1
    return bits.view(torch.float32)


def names_of(checks, *, equal):
    return [check.name for check in checks if check.equal == equal]
