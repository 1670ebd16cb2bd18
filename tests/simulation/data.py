"""The made-up data set and state of a simulated run: what is read, and what must come out.

A shard holds the number of each of its samples. The state after a step is the SHA-256 of the state before it and the
numbers of its samples, in the order of the virtual shards, as they were read: one sample lost, read twice or out of
order, or a step done twice, and the run ends with other bits.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metasr import manifest
from metasr.data.order import SampleOrder

SAMPLE_BYTES = 512
INDEX_BYTES_A_SHARD = 600  # of a real index
VAL, INDEX = "val.bin", "index.json"


@dataclass(frozen=True)
class Data:
    """Shapes of the data set: an epoch gives each virtual shard `steps_an_epoch` samples, one a step."""

    num_virtual_shards: int
    steps_an_epoch: int
    seed: int

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        num_samples = self.num_virtual_shards * self.steps_an_epoch
        return (num_samples // self.num_shards,) * self.num_shards

    @property
    def num_shards(self) -> int:
        return max(4, self.num_virtual_shards // 2)

    @property
    def order(self) -> SampleOrder:
        return SampleOrder(self.shard_sizes, 2 * self.num_virtual_shards, self.seed, self.num_virtual_shards)

    def key(self, shard: int) -> str:
        return f"train-{shard:06}.bin"

    def shard(self, number: int) -> bytes:
        size = self.shard_sizes[number]
        rows = np.zeros((size, SAMPLE_BYTES // 8), np.int64)
        rows[:, 0] = np.arange(number * size, (number + 1) * size)
        return rows.tobytes()

    def write(self, store) -> None:
        for number in range(self.num_shards):
            store.put(self.key(number), self.shard(number))
        store.put(VAL, bytes(64 * SAMPLE_BYTES))
        store.put(INDEX, b" " * INDEX_BYTES_A_SHARD * self.num_shards)


class State:
    """Where a run is.

    Attributes:
        step: Steps done.
        chain: SHA-256 of all that was computed, in hexadecimal.
        seen: How often each sample was used, `[samples]`.
    """

    def __init__(self, data: Data) -> None:
        self.step, self.chain, self.seen = 0, "0" * 64, np.zeros(sum(data.shard_sizes), np.int64)

    def advance(self, samples: np.ndarray) -> None:
        self.chain = hashlib.sha256(bytes.fromhex(self.chain) + samples.astype(np.int64).tobytes()).hexdigest()
        np.add.at(self.seen, samples, 1)
        self.step += 1

    @property
    def number(self) -> float:
        """A number from 0 to 1 that follows from the state: its losses and scores."""
        return int(self.chain[:12], 16) / 16**12

    def save(self, folder: Path, num_bytes: int) -> None:
        (folder / "state.safetensors").write_bytes(self._bytes(num_bytes))
        (folder / "log.jsonl").write_text(json.dumps({"step": self.step, "seen": self.seen.tolist()}))
        manifest.seal(folder, "checkpoint", {"step": self.step, "chain": self.chain})

    def load(self, folder: Path) -> None:
        about = manifest.unseal(folder, "checkpoint")
        said = json.loads((folder / "log.jsonl").read_text())
        self.step, self.chain, self.seen = said["step"], about["chain"], np.array(said["seen"])
        content = (folder / "state.safetensors").read_bytes()
        assert about["step"] == self.step
        assert content == self._bytes(len(content))

    def _bytes(self, num_bytes: int) -> bytes:
        return bytes.fromhex(self.chain) * (num_bytes // 32)


def expected(data: Data, steps: int) -> tuple[State, dict[int, float]]:
    """Return the last state of a run that nothing happens to, and the number of each step, without a store."""
    state, numbers, order = State(data), {}, data.order
    for step in range(steps):
        state.advance(order.step(step, data.num_virtual_shards))
        numbers[state.step] = state.number
    return state, numbers
